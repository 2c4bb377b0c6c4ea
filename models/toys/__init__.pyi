from .home import list_toys as list_toys
from .home import load_text_encoder as load_text_encoder
from .home import load_toy as load_toy
from .home import load_toy_folder as load_toy_folder
from .home import toy_card as toy_card
from .home import zero_shot as zero_shot
