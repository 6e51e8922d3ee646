"""Pictures: files to arrays and back, colours, sheets and maps."""
