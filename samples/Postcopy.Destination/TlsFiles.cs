using System.Net.Security;
using System.Security.Cryptography.X509Certificates;

namespace Postcopy.Destination;

/// <summary>The PEM files of a TLS destination, in QEMU's terms: server-cert.pem, server-key.pem and ca-cert.pem.</summary>
internal sealed record TlsFiles(string Certificate, string Key, string? Authority)
{
    /// <summary>Reads them. With an authority only clients that it has signed may connect.</summary>
    internal SslServerAuthenticationOptions Load()
    {
        SslServerAuthenticationOptions options = new() { ServerCertificate = X509Certificate2.CreateFromPemFile(Certificate, Key) };
        if (Authority is not null)
        {
            X509Certificate2Collection authorities = [];
            authorities.ImportFromPemFile(Authority);
            options.ClientCertificateRequired = true;
            options.CertificateChainPolicy = new X509ChainPolicy
            {
                TrustMode = X509ChainTrustMode.CustomRootTrust,
                RevocationMode = X509RevocationMode.NoCheck,
            };
            options.CertificateChainPolicy.CustomTrustStore.AddRange(authorities);
        }

        return options;
    }
}
