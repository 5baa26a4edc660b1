"""Synthetic overhead scenes with labels, boxes, oriented boxes and land cover: free test data of any size."""

from selectivemae.data.synthetic.scene import CLASSES, Scene, scene
from selectivemae.data.synthetic.tables import LAND, OBJECTS
from selectivemae.data.synthetic.write import write_scenes

__all__ = ["CLASSES", "LAND", "OBJECTS", "Scene", "scene", "write_scenes"]
