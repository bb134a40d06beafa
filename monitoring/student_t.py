"""Quantiles of Student's t distribution. Pure, standard library only.

The distribution function is 1 - I(x; df/2, 1/2)/2 at x = df/(df + t^2), with the regularised incomplete beta function I
by its continued fraction (modified Lentz; Press et al., Numerical Recipes, 6.4).
"""

from __future__ import annotations

import math

_TINY = 1e-300
_MOST_TERMS = 10_000


def t_quantile(probability: float, df: float) -> float:
    """The value below which a t variable with `df` degrees of freedom lies with that probability (0.5 to 1)."""
    if not 0.5 <= probability < 1.0 or df <= 0:
        raise ValueError(f"needs 0.5 <= probability < 1 and df > 0, found {probability} and {df}")
    low, high = 0.0, 1.0
    while t_distribution(high, df) < probability:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_distribution(middle, df) < probability else (low, middle)
    return (low + high) / 2


def t_distribution(t: float, df: float) -> float:
    """The probability that a t variable with `df` degrees of freedom is at most t."""
    square = t * t
    tail = _incomplete_beta(df / (df + square), square / (df + square), df / 2, 0.5) / 2
    return 1 - tail if t > 0 else tail


def _incomplete_beta(x: float, rest: float, a: float, b: float) -> float:
    """The regularised incomplete beta function. rest: 1 - x, of which each has the digits that the other loses."""
    if x == 0.0 or rest == 0.0:
        return x
    powers = a * (math.log(x) if x < rest else math.log1p(-rest))
    powers += b * (math.log(rest) if rest < x else math.log1p(-x))
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + powers)
    if x < (a + 1) / (a + b + 2):  # where the fraction converges fast
        return front * _fraction(x, a, b) / a
    return 1 - front * _fraction(rest, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _MOST_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _away_from_zero(1 + term * d)
            c = _away_from_zero(1 + term / c)
            change = c * d
            value *= change
        if abs(change - 1) < 1e-15:
            return value
    raise ArithmeticError(f"no convergence at x={x}, a={a}, b={b}")


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
