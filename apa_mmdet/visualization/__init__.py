from .local_visualizer import LegibleVisualizer

__all__ = ['LegibleVisualizer']
