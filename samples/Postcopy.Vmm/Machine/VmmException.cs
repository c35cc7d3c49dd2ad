namespace Postcopy.Vmm.Machine;

/// <summary>Something that ends what the VMM was asked to do; the message has the reason and the remedy.</summary>
internal sealed class VmmException(string message, Exception? inner = null) : Exception(message, inner);
