"""A local page that shows an image at any magnification: python demo.py -web"""
from web.options import MISSING, add_web_options, plan_web

__all__ = ['MISSING', 'add_web_options', 'plan_web']
