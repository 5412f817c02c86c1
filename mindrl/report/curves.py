"""Curves made fit to be looked at: smoothed, thinned out, or drawn with letters."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
BARS = "▁▂▃▄▅▆▇█"


def window_for(num_points: int) -> int:
    """Points that a smoothed curve averages over: a thirtieth of the run, odd; 1 (none) for a short one."""
    return 1 if num_points < 40 else 2 * (num_points // 60) + 1


def smooth(values: Floats, window: int) -> Floats:
    """Centred moving mean over `window` (odd) points, NaN left out; near the ends over as many as there are."""
    if window <= 1:
        return values
    present = np.isfinite(values)
    kernel = np.ones(window)
    half = window // 2
    sums = np.convolve(np.where(present, values, 0.0), kernel)[half : half + len(values)]
    counts = np.convolve(present.astype(float), kernel)[half : half + len(values)]
    return np.where(present, sums / np.maximum(counts, 1), np.nan)


def thin_mean(x: Floats, y: Floats, most: int) -> tuple[Floats, Floats]:
    """At most `most` points: the mean of each of as many stretches, NaN left out."""
    if len(x) <= most:
        return x, y
    parts = [(xs, ys) for xs, ys in zip(np.array_split(x, most), np.array_split(y, most), strict=True)]
    return (
        np.array([xs.mean() for xs, _ in parts]),
        np.array([ys[np.isfinite(ys)].mean() if np.isfinite(ys).any() else np.nan for _, ys in parts]),
    )


def thin_extremes(x: Floats, y: Floats, most: int) -> tuple[Floats, Floats]:
    """At most `most` points that keep every stretch's lowest and highest one, so that no spike is lost."""
    if len(x) <= most:
        return x, y
    keep: list[int] = []
    for part in np.array_split(np.arange(len(x)), most // 2):
        finite = part[np.isfinite(y[part])]
        if len(finite):
            keep.extend(sorted({int(finite[np.argmin(y[finite])]), int(finite[np.argmax(y[finite])])}))
    return x[keep], y[keep]


def sparkline(values: Floats, width: int = 40) -> str:
    """The curve as one line of block characters; empty without finite values."""
    _, thinned = thin_mean(np.arange(len(values), dtype=np.float64), values, width)
    finite = thinned[np.isfinite(thinned)]
    if not len(finite):
        return ""
    low, high = finite.min(), finite.max()
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if not np.isfinite(v) else BARS[round((v - low) * scale)] for v in thinned)
