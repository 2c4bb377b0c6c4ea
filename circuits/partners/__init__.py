"""What a removed edge carries: corrupted partners of clean images, and the masks under which they are changed."""
