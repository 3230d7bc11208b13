"""ComfyUI's nodes. Imported inside ComfyUI only, by the folder ``comfyui/ertacache`` of the repository."""
