"""Scenes in the WAI layout of MapAnything (docs/wai.md): one `scene_meta.json` and folders of modalities per scene."""
