"""What cvmstop is measured against, and cvmstop itself, each as a side that can drain."""
