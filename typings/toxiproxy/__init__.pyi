# The part of toxiproxy-python 0.1 that the chaos suite drives; the library itself carries no types.

from .proxy import Proxy as Proxy
from .server import Toxiproxy as Toxiproxy
