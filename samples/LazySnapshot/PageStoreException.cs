namespace LazySnapshot;

/// <summary>A store cannot give what it was asked for, for now: it is gone, slow, or a page of it is damaged.</summary>
internal sealed class PageStoreException(string message, Exception? inner = null) : Exception(message, inner);
