using System.Diagnostics;

namespace Postcopy.Uffd.Qemu;

/// <summary>One device's state in a package.</summary>
/// <param name="Name">The section's name, for example "cpu".</param>
/// <param name="Instance">Tells devices of the same name apart.</param>
/// <param name="Version">The version of the state's layout.</param>
/// <param name="SectionId">The number the footer repeats.</param>
/// <param name="Body">The state, subsections included, without header and footer.</param>
[DebuggerDisplay("{Name}/{Instance} v{Version} {Body.Length}")]
public sealed record DeviceSection(string Name, uint Instance, uint Version, uint SectionId, ReadOnlyMemory<byte> Body);
