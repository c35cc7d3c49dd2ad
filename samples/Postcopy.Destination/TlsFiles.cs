using System.Net.Security;
using Postcopy.Uffd.Qemu;

namespace Postcopy.Destination;

/// <summary>The PEM files of a TLS destination, in QEMU's terms: server-cert.pem, server-key.pem and ca-cert.pem.</summary>
internal sealed record TlsFiles(string Certificate, string Key, string? Authority)
{
    /// <summary>Reads them. With an authority only clients that it has signed may connect.</summary>
    internal SslServerAuthenticationOptions Load() => MigrationTls.FromPemFiles(Certificate, Key, Authority);
}
