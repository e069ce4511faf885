class Toxic:
    name: str
    type: str
    stream: str
    toxicity: float
    attributes: dict[str, int]
