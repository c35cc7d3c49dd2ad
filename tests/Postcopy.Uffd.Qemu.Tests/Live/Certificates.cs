using System.Net.Security;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;

namespace Postcopy.Uffd.Qemu.Tests.Live;

/// <summary>An authority, a server's and a client's certificate, as the PEM files that QEMU's tls-creds-x509 has.</summary>
internal static class Certificates
{
    /// <summary>
    /// Writes ca-cert.pem there, and server- and client-cert.pem and -key.pem; the options are read from them, and demand the client's.
    /// </summary>
    internal static SslServerAuthenticationOptions Write(string directory)
    {
        using ECDsa authorityKey = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        CertificateRequest request = new("CN=postcopy test authority", authorityKey, HashAlgorithmName.SHA256);
        request.CertificateExtensions.Add(new X509BasicConstraintsExtension(true, false, 0, true));
        request.CertificateExtensions.Add(new X509KeyUsageExtension(X509KeyUsageFlags.KeyCertSign, true));
        using X509Certificate2 authority = request.CreateSelfSigned(DateTimeOffset.UtcNow.AddDays(-1), DateTimeOffset.UtcNow.AddDays(2));
        File.WriteAllText(Path.Combine(directory, "ca-cert.pem"), authority.ExportCertificatePem());
        foreach ((string name, string subject, string usage) in (ReadOnlySpan<(string, string, string)>)
            [("client", "CN=source", "1.3.6.1.5.5.7.3.2"), ("server", "CN=127.0.0.1", "1.3.6.1.5.5.7.3.1")])
        {
            using X509Certificate2 certificate = Issue(authority, subject, usage);
            using ECDsa key = certificate.GetECDsaPrivateKey()!;
            File.WriteAllText(Path.Combine(directory, $"{name}-cert.pem"), certificate.ExportCertificatePem());
            File.WriteAllText(Path.Combine(directory, $"{name}-key.pem"), key.ExportPkcs8PrivateKeyPem());
        }

        return MigrationTls.FromPemFiles(
            Path.Combine(directory, "server-cert.pem"), Path.Combine(directory, "server-key.pem"), Path.Combine(directory, "ca-cert.pem"));
    }

    private static X509Certificate2 Issue(X509Certificate2 authority, string subject, string usage)
    {
        using ECDsa key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        CertificateRequest request = new(subject, key, HashAlgorithmName.SHA256);
        request.CertificateExtensions.Add(new X509BasicConstraintsExtension(false, false, 0, true));
        request.CertificateExtensions.Add(new X509KeyUsageExtension(X509KeyUsageFlags.DigitalSignature, true));
        request.CertificateExtensions.Add(new X509EnhancedKeyUsageExtension([new Oid(usage)], false));
        SubjectAlternativeNameBuilder names = new();
        names.AddIpAddress(System.Net.IPAddress.Loopback);
        names.AddDnsName("localhost");
        request.CertificateExtensions.Add(names.Build());
        using X509Certificate2 issued = request.Create(authority, DateTimeOffset.UtcNow.AddDays(-1), DateTimeOffset.UtcNow.AddDays(1), RandomNumberGenerator.GetBytes(8));
        return issued.CopyWithPrivateKey(key);
    }
}
