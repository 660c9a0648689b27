from .official_names import convert_official_state_dict

__all__ = ['convert_official_state_dict']
