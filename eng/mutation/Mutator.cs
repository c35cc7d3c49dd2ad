using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;
using Microsoft.CodeAnalysis.Text;

namespace Postcopy.Mutation;

/// <summary>One small change of one file.</summary>
/// <param name="File">The file's tree.</param>
/// <param name="Span">What is replaced.</param>
/// <param name="Text">What by.</param>
/// <param name="Kind">What was done, in a few words.</param>
internal sealed record Mutant(SyntaxTree File, TextSpan Span, string Text, string Kind)
{
    internal string Mutated
    {
        get
        {
            string text = File.ToString();
            return string.Concat(text.AsSpan(0, Span.Start), Text, text.AsSpan(Span.End));
        }
    }

    internal int Line => File.GetLineSpan(Span).StartLinePosition.Line + 1;

    internal string Original => File.ToString().Substring(Span.Start, Span.Length).ReplaceLineEndings(" ");
}

/// <summary>
/// What Stryker calls operators, conditionals, unary and boolean, and statement removal. Not mutated: what people read
/// (messages, ToString, debugger views), asserts, the seam of the interleaving tests, and constants that only size a table.
/// </summary>
internal sealed class Mutator : CSharpSyntaxWalker
{
    private static readonly Dictionary<SyntaxKind, string[]> s_operators = new()
    {
        [SyntaxKind.LessThanExpression] = ["<=", ">="],
        [SyntaxKind.LessThanOrEqualExpression] = ["<", ">"],
        [SyntaxKind.GreaterThanExpression] = [">=", "<="],
        [SyntaxKind.GreaterThanOrEqualExpression] = [">", "<"],
        [SyntaxKind.EqualsExpression] = ["!="],
        [SyntaxKind.NotEqualsExpression] = ["=="],
        [SyntaxKind.LogicalAndExpression] = ["||"],
        [SyntaxKind.LogicalOrExpression] = ["&&"],
        [SyntaxKind.AddExpression] = ["-"],
        [SyntaxKind.SubtractExpression] = ["+"],
        [SyntaxKind.MultiplyExpression] = ["/"],
        [SyntaxKind.DivideExpression] = ["*"],
        [SyntaxKind.ModuloExpression] = ["*"],
        [SyntaxKind.BitwiseAndExpression] = ["|"],
        [SyntaxKind.BitwiseOrExpression] = ["&"],
        [SyntaxKind.ExclusiveOrExpression] = ["&"],
        [SyntaxKind.LeftShiftExpression] = [">>"],
        [SyntaxKind.RightShiftExpression] = ["<<"],
        [SyntaxKind.AddAssignmentExpression] = ["-="],
        [SyntaxKind.SubtractAssignmentExpression] = ["+="],
    };

    private readonly List<Mutant> _found = [];
    private readonly SyntaxTree _file;

    private Mutator(SyntaxTree file) => _file = file;

    internal static List<Mutant> Of(SyntaxTree file)
    {
        Mutator mutator = new(file);
        mutator.Visit(file.GetRoot());
        return mutator._found;
    }

    public override void VisitBinaryExpression(BinaryExpressionSyntax node)
    {
        Replace(node.OperatorToken, node.Kind());
        base.VisitBinaryExpression(node);
    }

    public override void VisitAssignmentExpression(AssignmentExpressionSyntax node)
    {
        Replace(node.OperatorToken, node.Kind());
        base.VisitAssignmentExpression(node);
    }

    public override void VisitIfStatement(IfStatementSyntax node)
    {
        Negate(node.Condition, "if");
        base.VisitIfStatement(node);
    }

    public override void VisitConditionalExpression(ConditionalExpressionSyntax node)
    {
        Negate(node.Condition, "?:");
        base.VisitConditionalExpression(node);
    }

    public override void VisitWhileStatement(WhileStatementSyntax node)
    {
        Negate(node.Condition, "while");
        base.VisitWhileStatement(node);
    }

    public override void VisitPrefixUnaryExpression(PrefixUnaryExpressionSyntax node)
    {
        if (node.IsKind(SyntaxKind.LogicalNotExpression) || node.IsKind(SyntaxKind.BitwiseNotExpression) || node.IsKind(SyntaxKind.UnaryMinusExpression))
        {
            Add(node.OperatorToken.Span, string.Empty, $"{node.OperatorToken.Text} removed");
        }
        else if (node.IsKind(SyntaxKind.PreIncrementExpression))
        {
            Add(node.OperatorToken.Span, "--", "++ to --");
        }

        base.VisitPrefixUnaryExpression(node);
    }

    public override void VisitPostfixUnaryExpression(PostfixUnaryExpressionSyntax node)
    {
        if (node.IsKind(SyntaxKind.PostIncrementExpression))
        {
            Add(node.OperatorToken.Span, "--", "++ to --");
        }

        base.VisitPostfixUnaryExpression(node);
    }

    public override void VisitLiteralExpression(LiteralExpressionSyntax node)
    {
        if (node.IsKind(SyntaxKind.TrueLiteralExpression) || node.IsKind(SyntaxKind.FalseLiteralExpression))
        {
            Add(node.Span, node.IsKind(SyntaxKind.TrueLiteralExpression) ? "false" : "true", "boolean");
        }
    }

    public override void VisitExpressionStatement(ExpressionStatementSyntax node)
    {
        if (node.ToString() is var text && (text.StartsWith("InterleavingPoint.", StringComparison.Ordinal) || text.Contains("Debug.Assert", StringComparison.Ordinal)
            || text.StartsWith("GC.KeepAlive", StringComparison.Ordinal) || text.StartsWith("GC.SuppressFinalize", StringComparison.Ordinal)))
        {
            return;
        }

        Add(node.Span, ";", "statement removed");
        base.VisitExpressionStatement(node);
    }

    public override void VisitInterpolatedStringExpression(InterpolatedStringExpressionSyntax node)
    {
    }

    public override void VisitAttributeList(AttributeListSyntax node)
    {
    }

    public override void VisitObjectCreationExpression(ObjectCreationExpressionSyntax node)
    {
        if (!node.Type.ToString().EndsWith("Exception", StringComparison.Ordinal))
        {
            base.VisitObjectCreationExpression(node);
        }
    }

    public override void VisitMethodDeclaration(MethodDeclarationSyntax node)
    {
        if (node.Identifier.Text != "ToString")
        {
            base.VisitMethodDeclaration(node);
        }
    }

    public override void VisitDestructorDeclaration(DestructorDeclarationSyntax node)
    {
    }

    public override void VisitFieldDeclaration(FieldDeclarationSyntax node)
    {
    }

    private void Replace(SyntaxToken token, SyntaxKind kind)
    {
        if (s_operators.TryGetValue(kind, out string[]? others))
        {
            foreach (string other in others)
            {
                Add(token.Span, other, $"{token.Text} to {other}");
            }
        }
    }

    private void Negate(ExpressionSyntax condition, string where)
    {
        // 'out var' and patterns that declare would not compile negated where the variable is used after; that is found out.
        Add(condition.Span, $"!({condition})", $"{where} negated");
    }

    private void Add(TextSpan span, string text, string kind) => _found.Add(new Mutant(_file, span, text, kind));
}
