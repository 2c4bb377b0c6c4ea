const tables=[...document.querySelectorAll("table")];
const value=(row,at)=>row.cells[at].dataset.v;
for(const table of tables){
  const body=table.tBodies[0],heads=[...table.tHead.rows[0].cells];
  heads.forEach((head,at)=>head.querySelector("button")?.addEventListener("click",()=>{
    const down=head.getAttribute("aria-sort")==="ascending",sign=down?-1:1;
    heads.forEach(one=>one.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort",down?"descending":"ascending");
    const compare=(a,b)=>head.className==="n"?a-b:a.localeCompare(b,undefined,{numeric:true});
    [...body.rows].sort((a,b)=>{
      const [x,y]=[value(a,at),value(b,at)];
      return x===""||y===""?(x==="")-(y===""):sign*compare(x,y);
    }).forEach(row=>body.append(row));
  }));
}
const filter=document.querySelector("input");
filter.hidden=false;
filter.addEventListener("input",()=>{
  const words=filter.value.toLowerCase().split(/\s+/);
  for(const row of tables.flatMap(table=>[...table.tBodies[0].rows])){
    const said=row.textContent.toLowerCase();
    row.hidden=!words.every(word=>said.includes(word));
  }
});
