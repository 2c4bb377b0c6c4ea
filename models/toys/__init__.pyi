from .registry import list_toys as list_toys
from .registry import load_text_encoder as load_text_encoder
from .registry import load_toy as load_toy
from .registry import load_toy_folder as load_toy_folder
from .registry import toy_card as toy_card
from .registry import zero_shot as zero_shot
