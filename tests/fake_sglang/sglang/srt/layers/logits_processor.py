class LogitsMetadata:
    pass
