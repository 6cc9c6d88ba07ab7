"""What programs import: see plumbline.client."""
