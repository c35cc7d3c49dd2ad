using System.Diagnostics;

namespace Postcopy.Uffd.Qemu;

/// <summary>What a VM description says about one device.</summary>
/// <param name="Name">The section's name.</param>
/// <param name="Instance">Tells devices of the same name apart.</param>
/// <param name="Version">The version of the layout, or null when the device describes itself as an opaque buffer.</param>
/// <param name="Length">The bytes of its state on the wire, subsections with their headers included.</param>
[DebuggerDisplay("{Name}/{Instance} {Length}")]
public sealed record DeviceDescription(string Name, uint Instance, uint? Version, long Length);
