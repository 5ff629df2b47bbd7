"""Where images and textures come from: the pin in params.yaml, fetching, downloads, archives."""
