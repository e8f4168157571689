"""SGLang's external model package (SGLANG_EXTERNAL_MODEL_PACKAGE): imported by the engine's processes only."""
