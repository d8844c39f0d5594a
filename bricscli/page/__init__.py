"""The page of `brics inpaint --ui`: a picture, a brush, and what the same `Inpainter` makes of it; loopback only."""
