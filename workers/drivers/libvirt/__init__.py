"""Driver for hosts that libvirt manages."""
