"""Views for contrastive learning: augmentations, batch operations, stored and generated views."""
