using System.Diagnostics;
using System.Globalization;
using System.Reflection;
using System.Runtime.InteropServices;
using System.Text;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd.Tests.Interop;

/// <summary>Our constants and structs by their C names, and a C compiler to ask about them.</summary>
internal static class CHeaders
{
    internal const string Compiler = "/usr/bin/gcc";

    /// <summary>Compiles for arm64, with that architecture's headers; nothing of it is run.</summary>
    internal const string Arm64Compiler = "/usr/bin/aarch64-linux-gnu-gcc";

    private const string Includes = """
        #define _GNU_SOURCE
        #include <stddef.h>
        #include <errno.h>
        #include <fcntl.h>
        #include <poll.h>
        #include <sched.h>
        #include <signal.h>
        #include <time.h>
        #include <unistd.h>
        #include <sys/eventfd.h>
        #include <sys/ioctl.h>
        #include <sys/mman.h>
        #include <sys/resource.h>
        #include <sys/syscall.h>
        #include <linux/mman.h>
        #include <linux/memfd.h>
        #include <linux/falloc.h>
        #include <linux/userfaultfd.h>

        """;

    /// <summary>C names of structs whose .NET names follow .NET's rules, and of their fields where they differ.</summary>
    private static readonly Dictionary<string, string> s_structs = new()
    {
        ["PollFd"] = "pollfd",
        ["Timespec"] = "timespec",
        ["RLimit"] = "rlimit",
        ["SchedParam"] = "sched_param",
    };

    /// <summary>Public enums hold the kernel's values too.</summary>
    internal static IEnumerable<(string Name, Int128 Value)> EnumConstants()
    {
        (string, Int128)[] all =
        [
            .. Members<UffdFeatures>("UFFD_FEATURE_", skipZero: true),
            .. Members<UffdEvent>("UFFD_EVENT_", skipZero: false),
            .. Members<UffdPagefaultFlags>("UFFD_PAGEFAULT_FLAG_", skipZero: true),
            .. Members<UffdModes>("UFFDIO_REGISTER_MODE_", skipZero: true),
            ("UFFDIO_COPY_MODE_DONTWAKE", (int)UffdPlaceFlags.DontWake),
            ("UFFDIO_COPY_MODE_WP", (int)UffdPlaceFlags.WriteProtected),
            ("UFFDIO_ZEROPAGE_MODE_DONTWAKE", (int)UffdPlaceFlags.DontWake),
            ("UFFDIO_CONTINUE_MODE_DONTWAKE", (int)UffdPlaceFlags.DontWake),
            ("UFFDIO_CONTINUE_MODE_WP", (int)UffdPlaceFlags.WriteProtected),
            ("UFFDIO_POISON_MODE_DONTWAKE", (int)UffdPlaceFlags.DontWake),
            ("UFFDIO_WRITEPROTECT_MODE_WP", 1),
            ("UFFDIO_WRITEPROTECT_MODE_DONTWAKE", 2),
            ("UFFDIO_MOVE_MODE_DONTWAKE", (int)UffdMoveFlags.DontWake),
            ("UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES", (int)UffdMoveFlags.AllowSourceHoles),
        ];
        return all;
    }

    /// <summary>Enums of bit positions: the C side is (1 &lt;&lt; _UFFDIO_X).</summary>
    internal static IEnumerable<(string Name, Int128 Value)> OperationBits() =>
        Members<UffdOperations>("_UFFDIO_", skipZero: true)
            .Select(m => (m.Name.Replace("WRITE_PROTECT", "WRITEPROTECT", StringComparison.Ordinal), (Int128)ulong.TrailingZeroCount((ulong)m.Value)));

    /// <summary>All constants of the Interop folder, the syscall number included.</summary>
    internal static IEnumerable<(string Name, Int128 Value)> InteropConstants(Architecture architecture) =>
        new[] { typeof(Userfaultfd), typeof(Libc), typeof(Errno) }
            .SelectMany(t => t.GetFields(BindingFlags.Static | BindingFlags.NonPublic | BindingFlags.Public))
            .Where(f => f.IsLiteral)
            .Select(f => (f.Name, Int128.Parse(string.Create(CultureInfo.InvariantCulture, $"{f.GetRawConstantValue()}"), CultureInfo.InvariantCulture)))
            .Append(("SYS_userfaultfd", (Int128)(long)Libc.UserfaultfdNumber(architecture)));

    internal static IEnumerable<Type> Structs() =>
        new[] { typeof(Userfaultfd), typeof(Libc) }.SelectMany(t => t.GetNestedTypes(BindingFlags.NonPublic)).Where(t => t.IsValueType && !t.Name.StartsWith('<'));

    internal static string CName(Type type) => $"struct {s_structs.GetValueOrDefault(type.Name, type.Name)}";

    internal static string ConstantAssertion(string name, Int128 value) =>
        // The cast keeps the bit pattern and drops the sign and width of the C constant.
        value < 0
            ? $"_Static_assert((long long)({name}) == {value}LL, \"{name}\");"
            : $"_Static_assert(({name}) == {value}ULL, \"{name}\");";

    internal static IEnumerable<string> StructAssertions(Type type)
    {
        string c = CName(type);
        yield return $"_Static_assert(sizeof({c}) == {Marshal.SizeOf(type)}, \"sizeof {c}\");";
        foreach (FieldInfo field in type.GetFields(BindingFlags.Instance | BindingFlags.NonPublic | BindingFlags.Public))
        {
            yield return $"_Static_assert(offsetof({c}, {field.Name}) == {Marshal.OffsetOf(type, field.Name)}, \"{c}.{field.Name}\");";
            yield return $"_Static_assert(sizeof((({c} *)0)->{field.Name}) == {Marshal.SizeOf(field.FieldType)}, \"sizeof {c}.{field.Name}\");";
        }
    }

    /// <summary>Which of the names the header defines as macros.</summary>
    internal static HashSet<string> DefinedMacros(string compiler = Compiler)
    {
        (int code, string output, string errors) = Run(compiler, "-E -dM -x c -", Includes);
        Assert.True(code == 0, $"The headers do not preprocess; apt-get install libc6-dev linux-libc-dev (libc6-dev-arm64-cross for arm64). {errors}");
        return [.. output.Split('\n').Select(l => l.Split(' ')).Where(p => p.Length > 1).Select(p => p[1].Split('(')[0])];
    }

    /// <summary>True when a struct is complete in the headers.</summary>
    internal static bool Knows(Type type, string compiler = Compiler) => Compile([$"_Static_assert(sizeof({CName(type)}) > 0, \"\");"], compiler).Code == 0;

    internal static (int Code, string Errors) Compile(IEnumerable<string> assertions, string compiler = Compiler)
    {
        (int code, _, string errors) = Run(compiler, "-fsyntax-only -x c -", Includes + string.Join('\n', assertions) + "\n");
        return (code, errors);
    }

    private static IEnumerable<(string Name, Int128 Value)> Members<T>(string prefix, bool skipZero)
        where T : struct, Enum =>
        Enum.GetValues<T>().Select(v => (Snake(v.ToString(), prefix), (Int128)Convert.ToUInt64(v, CultureInfo.InvariantCulture)))
            .Where(m => !skipZero || m.Item2 != 0);

    private static string Snake(string pascal, string prefix)
    {
        // Two values have names that the header shortens.
        string name = (prefix, pascal) switch
        {
            ("UFFD_PAGEFAULT_FLAG_" or "UFFDIO_REGISTER_MODE_", "WriteProtect") => "Wp",
            _ => pascal,
        };
        StringBuilder text = new(prefix);
        for (int i = 0; i < name.Length; i++)
        {
            if (i > 0 && char.IsUpper(name[i]))
            {
                _ = text.Append('_');
            }

            _ = text.Append(char.ToUpperInvariant(name[i]));
        }

        return text.ToString();
    }

    private static (int Code, string Output, string Errors) Run(string compiler, string arguments, string input)
    {
        using Process gcc = Process.Start(new ProcessStartInfo(compiler, arguments)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            UseShellExecute = false,
        })!;
        Task<string> errors = gcc.StandardError.ReadToEndAsync();
        gcc.StandardInput.Write(input);
        gcc.StandardInput.Close();
        string output = gcc.StandardOutput.ReadToEnd();
        gcc.WaitForExit();
        return (gcc.ExitCode, output, errors.Result);
    }
}
