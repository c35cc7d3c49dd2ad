using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Benchmarks.Interop;

/// <summary>Compiles the C baselines into a folder of their own, which goes when the process ends.</summary>
internal static class Compiler
{
    /// <summary>Tells a child of this process where the compiled library is.</summary>
    internal const string LabVariable = "POSTCOPY_LAB";

    private static readonly Lazy<string> s_folder = new(() =>
    {
        string folder = Directory.CreateTempSubdirectory("postcopy-lab-").FullName;
        AppDomain.CurrentDomain.ProcessExit += (_, _) => Directory.Delete(folder, recursive: true);
        return folder;
    });

    private static readonly Lazy<string> s_lab = new(() =>
    {
        if (Environment.GetEnvironmentVariable(LabVariable) is { } compiled)
        {
            return compiled;
        }

        string path = Path.Combine(s_folder.Value, "postcopy-lab.so");
        Gcc($"-fPIC -shared -o {path}", "uffd.c", "place.c", "fault.c", "touch.c", "wire.c");
        return path;
    });

    internal static string Lab => s_lab.Value;

    private static string Sources => Path.Combine(AppContext.BaseDirectory, "native");

    /// <summary>Builds a program of native/ and gives its path.</summary>
    internal static string Program(string name, params string[] sources)
    {
        string path = Path.Combine(s_folder.Value, name);
        if (!File.Exists(path))
        {
            Gcc($"-o {path}", sources);
        }

        return path;
    }

    /// <summary>Builds a boot sector of native/ and gives its path.</summary>
    internal static string BootSector(string source)
    {
        string path = Path.Combine(s_folder.Value, Path.ChangeExtension(source, "bin"));
        Gcc($"-m32 -nostdlib -static -Wl,-Ttext=0x7c00,--oformat=binary,--build-id=none -o {path}", source);
        return path;
    }

    // Loaded anew each time, not once: of threads that meet their first import at the same moment, Native AOT's runtime keeps one's
    // handle and closes those of the others.
    // CA2255: the resolver must stand before the first import of this assembly is called.
#pragma warning disable CA2255 // a program, not a library
    [ModuleInitializer]
#pragma warning restore CA2255
    internal static void ResolveLab() => NativeLibrary.SetDllImportResolver(
        typeof(Compiler).Assembly, (name, _, _) => name == NativeLab.Library ? NativeLibrary.Load(s_lab.Value) : 0);

    private static void Gcc(string output, params string[] sources)
    {
        string files = string.Join(' ', sources.Select(s => Path.Combine(Sources, s)));
        try
        {
            using Process gcc = Process.Start(new ProcessStartInfo("gcc", $"-std=gnu11 -O2 -Wall -Wextra -Werror -pthread {output} {files}") { RedirectStandardError = true })!;
            string errors = gcc.StandardError.ReadToEnd();
            gcc.WaitForExit();
            if (gcc.ExitCode != 0)
            {
                throw new LabException($"gcc refuses the baselines; apt-get install libc6-dev linux-libc-dev. {errors}");
            }
        }
        catch (System.ComponentModel.Win32Exception e)
        {
            throw new LabException($"The baselines need gcc: apt-get install gcc libc6-dev linux-libc-dev ({e.Message}).");
        }
    }
}
