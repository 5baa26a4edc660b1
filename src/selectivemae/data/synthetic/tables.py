"""Names of everything a synthetic scene may hold; an index into a table is what arrays and files store."""

LAND = ("background", "grass", "field", "trees", "water", "road", "building", "bare", "paved")
"""Land cover of a pixel, ``Scene.mask``. Vehicles and aircraft have the cover that they stand on; ships, solar
panels and pools are background."""

BACKGROUND, GRASS, FIELD, TREES, WATER, ROAD, BUILDING, BARE, PAVED = range(len(LAND))

OBJECTS = ("car", "truck", "ship", "aircraft", "storage-tank", "building", "sports-pitch", "roundabout")
"""Kinds of boxed objects, ``Scene.box_labels``."""

CAR, TRUCK, SHIP, AIRCRAFT, TANK, HOUSE, PITCH, ROUNDABOUT = range(len(OBJECTS))
