using System.Diagnostics;
using System.Globalization;
using System.Reflection;
using System.Runtime.InteropServices;
using Postcopy.Vmm.Interop;

namespace Postcopy.Vmm.Tests;

/// <summary>Our constants and structs against a C compiler and the machine's <c>linux/kvm.h</c>.</summary>
public sealed class KvmAbiTests
{
    private const string Compiler = "/usr/bin/gcc";
    private const string Includes = "#include <stddef.h>\n#include <errno.h>\n#include <fcntl.h>\n#include <sys/mman.h>\n#include <linux/kvm.h>\n#include <asm/kvm_para.h>\n";

    // C has anonymous structs and unions there; the tables below name the members.
    private static readonly Type[] s_notByField = [typeof(Kvm.kvm_xcr_list), typeof(Kvm.kvm_run), typeof(Kvm.kvm_vcpu_events)];

    private static readonly (string Ours, string C)[] s_run =
    [
        ("immediate_exit", "immediate_exit"), ("exit_reason", "exit_reason"), ("hardware_exit_reason", "fail_entry.hardware_entry_failure_reason"),
        ("io_direction", "io.direction"), ("io_size", "io.size"), ("io_port", "io.port"), ("io_count", "io.count"), ("io_data_offset", "io.data_offset"),
        ("mmio_phys_addr", "mmio.phys_addr"), ("mmio_data", "mmio.data"), ("mmio_len", "mmio.len"), ("mmio_is_write", "mmio.is_write"),
        ("internal_suberror", "internal.suberror"), ("internal_ndata", "internal.ndata"),
        ("emulation_insn_size", "emulation_failure.insn_size"), ("emulation_insn_bytes", "emulation_failure.insn_bytes"),
    ];

    [Fact]
    public void ConstantsAgreeWithTheHeaders()
    {
        Requires.Tool(Compiler, "gcc libc6-dev");
        string[] assertions = [.. new[] { typeof(Kvm), typeof(Libc) }
            .SelectMany(t => t.GetFields(BindingFlags.Static | BindingFlags.NonPublic))
            .Where(f => f.IsLiteral)
            .Select(f => string.Create(CultureInfo.InvariantCulture, $"_Static_assert(({f.Name}) == {f.GetRawConstantValue()}, \"{f.Name}\");"))];

        (int code, string errors) = Compile(assertions);

        Assert.True(code == 0, errors);
        Assert.True(assertions.Length > 50, $"Only {assertions.Length} constants were compared.");
    }

    [Fact]
    public void StructsAgreeWithTheHeaders()
    {
        Requires.Tool(Compiler, "gcc libc6-dev");
        Type[] structs = [.. typeof(Kvm).GetNestedTypes(BindingFlags.NonPublic).Where(t => t.IsValueType && !t.Name.StartsWith('<')).Except(s_notByField)];
        IEnumerable<string> assertions = structs.SelectMany(Assertions)
            .Concat(s_run.SelectMany(p => Assertions(typeof(Kvm.kvm_run), p.Ours, p.C)))
            .Append("_Static_assert(offsetof(struct kvm_msrs, entries) == 8 && offsetof(struct kvm_cpuid2, entries) == 8, \"list headers\");")
            .Append($"_Static_assert(sizeof(struct kvm_vcpu_events) == {Marshal.SizeOf<Kvm.kvm_vcpu_events>()}, \"kvm_vcpu_events\");");

        (int code, string errors) = Compile(assertions);

        Assert.True(code == 0, errors);
        Assert.Contains(typeof(Kvm.kvm_sregs), structs);
    }

    [Fact]
    public void AWrongOffsetDoesNotCompile()
    {
        Requires.Tool(Compiler, "gcc libc6-dev");
        Assert.NotEqual(0, Compile(["_Static_assert(offsetof(struct kvm_run, exit_reason) == 12, \"\");"]).Code);
    }

    private static IEnumerable<string> Assertions(Type type)
    {
        yield return $"_Static_assert(sizeof(struct {type.Name}) == {Marshal.SizeOf(type)}, \"sizeof {type.Name}\");";
        foreach (FieldInfo field in type.GetFields(BindingFlags.Instance | BindingFlags.NonPublic | BindingFlags.Public))
        {
            foreach (string assertion in Assertions(type, field.Name, field.Name))
            {
                yield return assertion;
            }
        }
    }

    /// <summary>A field's place and its width.</summary>
    private static string[] Assertions(Type type, string ours, string c)
    {
        FieldInfo field = type.GetField(ours, BindingFlags.Instance | BindingFlags.NonPublic | BindingFlags.Public)!;
        string place = $"_Static_assert(offsetof(struct {type.Name}, {c}) == {Marshal.OffsetOf(type, ours)}, \"{type.Name}.{c}\");";
        int width = field.FieldType.IsPointer ? nint.Size : Marshal.SizeOf(field.FieldType);
        return [place, $"_Static_assert(sizeof(((struct {type.Name} *)0)->{c}) == {width}, \"width of {type.Name}.{c}\");"];
    }

    private static (int Code, string Errors) Compile(IEnumerable<string> assertions)
    {
        using Process gcc = Process.Start(new ProcessStartInfo(Compiler, "-fsyntax-only -x c -")
        {
            RedirectStandardInput = true,
            RedirectStandardError = true,
            UseShellExecute = false,
        })!;
        gcc.StandardInput.Write(Includes + string.Join('\n', assertions) + "\n");
        gcc.StandardInput.Close();
        string errors = gcc.StandardError.ReadToEnd();
        gcc.WaitForExit();
        return (gcc.ExitCode, errors);
    }
}
