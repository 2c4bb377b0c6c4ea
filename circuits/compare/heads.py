"""What heads are matched by, gathered from models; apart, because it needs torch."""

from ..figure_data import gather_heads as gather_heads
