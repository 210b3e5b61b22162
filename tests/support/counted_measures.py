"""Which matrices a scan in this process measures anew."""

from spectrank.scanning.running import jobs


def counted(monkeypatch):
    """Names, in order, of the matrices that are measured from now on."""
    names = []
    real = jobs._measure

    def measure(weights, *rest):
        names.extend(weight.name for weight in weights)
        return real(weights, *rest)

    monkeypatch.setattr(jobs, "_measure", measure)
    return names
