"""RetrievalService as JSON over HTTP, and the explorer."""
