using System.Net.Security;
using System.Security.Cryptography.X509Certificates;

namespace Postcopy.Uffd.Qemu;

/// <summary>TLS from PEM files, as QEMU's <c>tls-creds-x509</c> has them.</summary>
public static class MigrationTls
{
    /// <summary>Makes the options of a listening destination.</summary>
    /// <param name="certificateFile">Its certificate, QEMU's <c>server-cert.pem</c>.</param>
    /// <param name="keyFile">Its private key, QEMU's <c>server-key.pem</c>.</param>
    /// <param name="authorityFile">
    /// QEMU's <c>ca-cert.pem</c>: only sources whose certificate this authority signed may connect. Null: whoever wants to.
    /// </param>
    /// <returns>Options for <see cref="MigrationListenerOptions.Tls"/>.</returns>
    /// <exception cref="IOException">A file cannot be read.</exception>
    /// <exception cref="System.Security.Cryptography.CryptographicException">A file has no PEM of that kind, or the key belongs to another certificate.</exception>
    /// <remarks>Revocation is not checked: a destination has no network but the migration's.</remarks>
    public static SslServerAuthenticationOptions FromPemFiles(string certificateFile, string keyFile, string? authorityFile = null)
    {
        SslServerAuthenticationOptions options = new() { ServerCertificate = X509Certificate2.CreateFromPemFile(certificateFile, keyFile) };
        if (authorityFile is not null)
        {
            X509Certificate2Collection authorities = [];
            authorities.ImportFromPemFile(authorityFile);
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
