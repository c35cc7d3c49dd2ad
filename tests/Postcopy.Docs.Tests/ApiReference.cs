using System.Text;
using System.Text.RegularExpressions;
using System.Xml.Linq;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;

namespace Postcopy.Docs.Tests;

/// <summary>Writes one Markdown page for an assembly from its symbols and its XML documentation.</summary>
internal sealed partial class ApiReference
{
    private static readonly SymbolDisplayFormat s_signature = new(
        typeQualificationStyle: SymbolDisplayTypeQualificationStyle.NameOnly,
        genericsOptions: SymbolDisplayGenericsOptions.IncludeTypeParameters,
        memberOptions: SymbolDisplayMemberOptions.IncludeParameters | SymbolDisplayMemberOptions.IncludeType | SymbolDisplayMemberOptions.IncludeModifiers | SymbolDisplayMemberOptions.IncludeConstantValue | SymbolDisplayMemberOptions.IncludeRef,
        parameterOptions: SymbolDisplayParameterOptions.IncludeType | SymbolDisplayParameterOptions.IncludeName | SymbolDisplayParameterOptions.IncludeDefaultValue | SymbolDisplayParameterOptions.IncludeParamsRefOut,
        propertyStyle: SymbolDisplayPropertyStyle.ShowReadWriteDescriptor,
        miscellaneousOptions: SymbolDisplayMiscellaneousOptions.UseSpecialTypes | SymbolDisplayMiscellaneousOptions.IncludeNullableReferenceTypeModifier | SymbolDisplayMiscellaneousOptions.EscapeKeywordIdentifiers);

    private readonly StringBuilder _page = new();
    private readonly IAssemblySymbol _assembly;
    private readonly Dictionary<string, XElement> _documentation;

    private ApiReference(IAssemblySymbol assembly, Dictionary<string, XElement> documentation) => (_assembly, _documentation) = (assembly, documentation);

    /// <summary>The page of an assembly of this process, which must have its XML file beside it.</summary>
    internal static string Of(string name)
    {
        string path = Path.Combine(AppContext.BaseDirectory, name + ".dll"), documentation = Path.ChangeExtension(path, ".xml");
        if (!File.Exists(documentation))
        {
            throw new FileNotFoundException($"{name} was built without its XML documentation.", documentation);
        }

        MetadataReference assembly = MetadataReference.CreateFromFile(path);
        IEnumerable<MetadataReference> others = ((string)AppContext.GetData("TRUSTED_PLATFORM_ASSEMBLIES")!).Split(':')
            .Where(p => p != path).Select(p => MetadataReference.CreateFromFile(p));
        CSharpCompilation compilation = CSharpCompilation.Create("reference", references: [assembly, .. others]);
        return new ApiReference(
            (IAssemblySymbol)compilation.GetAssemblyOrModuleSymbol(assembly)!,
            XDocument.Load(documentation, LoadOptions.PreserveWhitespace).Descendants("member").ToDictionary(m => m.Attribute("name")!.Value)).Write();
    }

    private string Write()
    {
        _ = _page.Append($"# {_assembly.Name}: API reference\n\nWritten from the XML documentation by `tests/Postcopy.Docs.Tests`; `POSTCOPY_UPDATE=1` writes it anew.\n");
        INamedTypeSymbol[] types = [.. Types(_assembly.GlobalNamespace).OrderBy(t => t.ToDisplayString(), StringComparer.Ordinal)];
        foreach (INamedTypeSymbol type in types)
        {
            Type(type);
        }

        return _page.ToString();
    }

    private static IEnumerable<INamedTypeSymbol> Types(INamespaceOrTypeSymbol container) =>
        container.GetMembers().SelectMany(m => m switch
        {
            INamespaceSymbol inner => Types(inner),
            INamedTypeSymbol type when IsPublic(type) => Types(type).Prepend(type),
            _ => [],
        });

    private static bool IsPublic(ISymbol symbol) => symbol.DeclaredAccessibility is Accessibility.Public or Accessibility.Protected or Accessibility.ProtectedOrInternal;

    private void Type(INamedTypeSymbol type)
    {
        string kind = type switch
        {
            { IsRecord: true, IsValueType: true } => "record struct",
            { IsRecord: true } => "record",
            { TypeKind: TypeKind.Struct, IsReadOnly: true } => "readonly struct",
            _ => type.TypeKind.ToString().ToLowerInvariant(),
        };
        _ = _page.Append($"\n## {type.ToDisplayString(s_signature)}\n\n`{kind}` in `{type.ContainingNamespace}`. ");
        Documentation(type);
        bool isEnum = type.TypeKind == TypeKind.Enum;
        foreach (ISymbol member in type.GetMembers().Where(m => IsPublic(m) && !m.IsImplicitlyDeclared && IsListed(m)).OrderBy(Rank).ThenBy(m => isEnum ? string.Empty : m.Name, StringComparer.Ordinal))
        {
            _ = _page.Append($"\n### `{member.ToDisplayString(s_signature)}`\n\n");
            Documentation(member);
        }
    }

    private static bool IsListed(ISymbol member) => member switch
    {
        IMethodSymbol method => method.MethodKind is MethodKind.Ordinary or MethodKind.Constructor && !method.IsOverride && method.Name is not ("Equals" or "Deconstruct") && !IsOfARecord(method),
        IPropertySymbol property => property.Name != "EqualityContract",
        IFieldSymbol field => field.CanBeReferencedByName && !field.Name.EndsWith("__", StringComparison.Ordinal),
        IEventSymbol => true,
        _ => false,
    };

    /// <summary>What the compiler gives every record; from metadata it looks like any member.</summary>
    private static bool IsOfARecord(IMethodSymbol method) =>
        method.ContainingType.IsRecord && (method.Name is "<Clone>$" or "PrintMembers" || method is { MethodKind: MethodKind.Constructor, DeclaredAccessibility: Accessibility.Protected });

    private static int Rank(ISymbol member) => member switch
    {
        IMethodSymbol { MethodKind: MethodKind.Constructor } => 0,
        IFieldSymbol => 1,
        IPropertySymbol => 2,
        IEventSymbol => 3,
        _ => 4,
    };

    private void Documentation(ISymbol symbol)
    {
        XElement element = Of(symbol);
        if (element.Element("inheritdoc") is not null && Inherited(symbol) is { } from)
        {
            element = Of(from);
        }

        Paragraph(element.Element("summary"));
        foreach (XElement parameter in element.Elements("param"))
        {
            _ = _page.Append($"- `{parameter.Attribute("name")!.Value}`: {Text(parameter)}\n");
        }

        if (element.Element("returns") is { } returns)
        {
            _ = _page.Append($"- returns {Text(returns)}\n");
        }

        foreach (XElement exception in element.Elements("exception"))
        {
            _ = _page.Append($"- throws `{Short(exception.Attribute("cref")!.Value)}`: {Text(exception)}\n");
        }

        foreach (XElement remarks in element.Elements("remarks"))
        {
            XElement[] paragraphs = [.. remarks.Elements("para")];
            foreach (XElement paragraph in paragraphs.Length > 0 ? paragraphs : [remarks])
            {
                _ = _page.Append('\n');
                Paragraph(paragraph);
            }
        }
    }

    private XElement Of(ISymbol symbol) =>
        symbol.GetDocumentationCommentId() is { } id && _documentation.TryGetValue(id, out XElement? element) ? element : new XElement("member");

    private void Paragraph(XElement? element)
    {
        if (element is not null)
        {
            _ = _page.Append(Text(element)).Append('\n');
        }
    }

    /// <summary>The member of an interface or base type that a member implements.</summary>
    private static ISymbol? Inherited(ISymbol symbol) =>
        symbol switch
        {
            IMethodSymbol { OverriddenMethod: { } method } => method,
            IPropertySymbol { OverriddenProperty: { } property } => property,
            _ => symbol.ContainingType?.AllInterfaces.SelectMany(i => i.GetMembers(symbol.Name)).FirstOrDefault(m => symbol.ContainingType.FindImplementationForInterfaceMember(m)?.Equals(symbol, SymbolEqualityComparer.Default) == true),
        };

    private static string Text(XElement element)
    {
        StringBuilder text = new();
        foreach (XNode node in element.Nodes())
        {
            _ = node switch
            {
                XText words => text.Append(words.Value),
                XElement { Name.LocalName: "see" or "seealso" } see => text.Append(see.Attribute("langword") is { } word ? $"`{word.Value}`" : see.Attribute("cref") is { } cref ? $"`{Short(cref.Value)}`" : $"<{see.Attribute("href")?.Value}>"),
                XElement { Name.LocalName: "paramref" or "typeparamref" } name => text.Append($"`{name.Attribute("name")!.Value}`"),
                XElement { Name.LocalName: "c" or "code" } code => text.Append($"`{Spaces().Replace(code.Value, " ").Trim()}`"),
                XElement { Name.LocalName: "item" } item => text.Append($" - {Text(item)};"),
                XElement other => text.Append(Text(other)),
                _ => text,
            };
        }

        return Spaces().Replace(text.ToString(), " ").Trim();
    }

    /// <summary>Type and member of a documentation id, without namespace and parameters.</summary>
    private static string Short(string cref)
    {
        string name = cref[(cref.IndexOf(':', StringComparison.Ordinal) + 1)..].Split('(')[0];
        string[] parts = Arity().Replace(name, string.Empty).Split('.');
        return cref.StartsWith("T:", StringComparison.Ordinal) || parts.Length == 1 ? parts[^1] : $"{parts[^2]}.{parts[^1]}".Replace("#ctor", "ctor", StringComparison.Ordinal);
    }

    [GeneratedRegex(@"\s+")]
    private static partial Regex Spaces();

    [GeneratedRegex("`+\\d+")]
    private static partial Regex Arity();
}
