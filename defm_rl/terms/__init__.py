"""What manager-based tasks of Isaac Lab and mjlab share: cameras, encodings, sensors and delays of observation terms.

It knows neither simulator: `defm_rl.isaaclab` and `defm_rl.mjlab` say how a camera is read and a term is configured.
"""
