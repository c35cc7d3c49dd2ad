using System.Globalization;
using Microsoft.Extensions.Options;
using Postcopy.Uffd.Qemu;

namespace Postcopy.Uffd.Hosting;

/// <summary>All that is wrong, each with value, limit and remedy.</summary>
internal sealed class PostcopyHostingOptionsValidator : IValidateOptions<PostcopyHostingOptions>
{
    private static readonly TimeSpan s_day = TimeSpan.FromDays(1);

    public ValidateOptionsResult Validate(string? name, PostcopyHostingOptions options)
    {
        List<string> errors = [];
        if (!MigrationAddress.TryParse(options.Listen, out _, out string allowed))
        {
            errors.Add(Of(name, nameof(options.Listen), options.Listen.Length == 0 ? "empty" : $"'{options.Listen}'", $"give {allowed}"));
        }

        if (!TryParseMode(options.SocketMode, out _))
        {
            errors.Add(Of(name, nameof(options.SocketMode), $"'{options.SocketMode}'", "give three octal digits, such as 600 or 660"));
        }

        if (options.TlsCertificate is null != options.TlsKey is null)
        {
            errors.Add(Of(name, options.TlsKey is null ? nameof(options.TlsKey) : nameof(options.TlsCertificate), "missing", "certificate and key are given together"));
        }

        if (options.TlsAuthority is not null && options.TlsCertificate is null)
        {
            errors.Add(Of(name, nameof(options.TlsAuthority), $"'{options.TlsAuthority}'", "it needs TlsCertificate and TlsKey"));
        }

        CheckFile(errors, name, nameof(options.TlsCertificate), options.TlsCertificate);
        CheckFile(errors, name, nameof(options.TlsKey), options.TlsKey);
        CheckFile(errors, name, nameof(options.TlsAuthority), options.TlsAuthority);
        CheckTime(errors, name, nameof(options.RecoverTimeout), options.RecoverTimeout, TimeSpan.Zero, 7 * s_day);
        CheckTime(errors, name, nameof(options.StallTimeout), options.StallTimeout, TimeSpan.FromMilliseconds(100), s_day);
        CheckTime(errors, name, nameof(options.StallAlarm), options.StallAlarm, TimeSpan.FromMilliseconds(10), s_day);
        return errors.Count == 0 ? ValidateOptionsResult.Success : ValidateOptionsResult.Fail(errors);
    }

    internal static bool TryParseMode(string? text, out UnixFileMode mode)
    {
        bool right = text is { Length: 3 } && text.All(c => c is >= '0' and <= '7');
        mode = right ? (UnixFileMode)Convert.ToInt32(text, 8) : default;
        return right;
    }

    private static void CheckFile(List<string> errors, string? name, string option, string? path)
    {
        if (path is not null && !File.Exists(path))
        {
            errors.Add(Of(name, option, $"'{path}'", "there is no such file that this process may see"));
        }
    }

    private static void CheckTime(List<string> errors, string? name, string option, TimeSpan value, TimeSpan least, TimeSpan most)
    {
        if (value < least || value > most)
        {
            errors.Add(Of(name, option, value.ToString("c", CultureInfo.InvariantCulture), $"it must be {least:c} to {most:c}"));
        }
    }

    private static string Of(string? name, string option, string value, string remedy) =>
        $"{nameof(PostcopyHostingOptions)}{(string.IsNullOrEmpty(name) ? "" : $" of '{name}'")}: {option} is {value}; {remedy}.";
}
