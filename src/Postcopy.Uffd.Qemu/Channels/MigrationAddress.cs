using System.Diagnostics.CodeAnalysis;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text;

namespace Postcopy.Uffd.Qemu;

/// <summary>Where to listen or connect, written as QEMU does: <c>tcp:HOST:PORT</c> or <c>unix:PATH</c>.</summary>
public static class MigrationAddress
{
    // sockaddr_un.sun_path has 108 bytes, the closing zero included (unix(7)).
    private const int LongestPath = 107;

    /// <summary>Reads an address. Nothing is looked up: a TCP host is numeric, or <c>localhost</c>, which is 127.0.0.1.</summary>
    /// <param name="text">The address, such as <c>tcp:127.0.0.1:4444</c>, <c>tcp:[::1]:4444</c> or <c>unix:/run/vm.sock</c>.</param>
    /// <returns>An <see cref="IPEndPoint"/> or a <see cref="UnixDomainSocketEndPoint"/> with a full path.</returns>
    /// <exception cref="FormatException">It is none; the message says what is allowed.</exception>
    public static EndPoint Parse(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        return TryParse(text, out EndPoint? address, out string allowed) ? address : throw new FormatException($"'{text}' is not allowed; give {allowed}.");
    }

    /// <summary>Reads an address as <see cref="Parse"/> does.</summary>
    /// <param name="text">The address.</param>
    /// <param name="address">What it is; null when it is none.</param>
    /// <param name="allowed">What would have been right.</param>
    /// <returns>True when it is one.</returns>
    public static bool TryParse(string? text, [NotNullWhen(true)] out EndPoint? address, out string allowed)
    {
        address = null;
        allowed = "tcp:HOST:PORT (such as tcp:127.0.0.1:4444) or unix:PATH";
        if (text is null)
        {
            return false;
        }

        if (text.StartsWith("unix:", StringComparison.Ordinal) && text.Length > 5)
        {
            if (text.Contains('\0', StringComparison.Ordinal))
            {
                allowed = "unix:PATH with a path that has no zero character";
                return false;
            }

            string path = Path.GetFullPath(text[5..]);
            if (Encoding.UTF8.GetByteCount(path) > LongestPath)
            {
                allowed = $"unix:PATH with a path of at most {LongestPath} bytes";
                return false;
            }

            address = new UnixDomainSocketEndPoint(path);
            return true;
        }

        int colon = text.LastIndexOf(':');
        if (!text.StartsWith("tcp:", StringComparison.Ordinal) || colon <= 4 ||
            !ushort.TryParse(text.AsSpan(colon + 1), NumberStyles.None, CultureInfo.InvariantCulture, out ushort port))
        {
            return false;
        }

        string host = text[4..colon].Trim('[', ']');
        if (!IPAddress.TryParse(host is "localhost" ? "127.0.0.1" : host, out IPAddress? ip))
        {
            allowed = "tcp:HOST:PORT with a numeric address (such as tcp:127.0.0.1:4444)";
            return false;
        }

        address = new IPEndPoint(ip, port);
        return true;
    }

    /// <summary>The other way round.</summary>
    /// <param name="address">An address.</param>
    /// <returns>Text that <see cref="Parse"/> reads.</returns>
    public static string Format(EndPoint address)
    {
        ArgumentNullException.ThrowIfNull(address);
        return address.AddressFamily == AddressFamily.Unix ? $"unix:{address}" : $"tcp:{address}";
    }
}
