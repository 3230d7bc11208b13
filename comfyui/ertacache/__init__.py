"""ERTACache for ComfyUI: put this folder into ``custom_nodes``, and install ``ertacache`` in ComfyUI's environment."""

from ertacache.integrations.comfyui.nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"
"""Its ``docs`` are the nodes' help pages."""

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
