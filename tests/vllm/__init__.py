"""Models that the cluster serves itself, by the real vLLM engine: `make test-vllm`."""
