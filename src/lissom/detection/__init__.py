"""Boxes around things in pictures: decoded, matched, judged, assigned to predictions and learned."""
