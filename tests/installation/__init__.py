"""Installation: from a clone, from a wheel, on the day it was made and on later ones."""
