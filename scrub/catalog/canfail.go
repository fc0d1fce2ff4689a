package catalog

import (
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	pg_query "github.com/pganalyze/pg_query_go/v5"
)

// Abstract is what is known of a value: the set of what it may be. The zero Abstract is not valid; use Anything,
// Null, NotNull or Catalog.Constant.
type Abstract struct {
	may  outcome
	kind constKind // how to compare text, where the only non-null value is known
	typ  Name      // of a labelConst
	text string
}

// outcome is a set of results.
type outcome byte

const (
	mayNull outcome = 1 << iota
	mayTrue
	mayFalse
	mayOther // a value that is not a boolean
)

const (
	anyTruth   = mayTrue | mayFalse
	anyValue   = mayTrue | mayFalse | mayOther
	anyOutcome = anyValue | mayNull
)

// constKind says what the text of a constant means.
type constKind byte

const (
	noConst     constKind = iota
	textConst             // text, or a literal whose type is not settled yet
	charConst             // char(n), trailing blanks taken off
	numberConst           // an integer or a numeric, as plain decimal digits
	labelConst            // of an enum
)

// Anything is a value of which nothing is known, not even whether it is NULL.
func Anything() Abstract { return Abstract{may: anyOutcome} }

// Null is NULL.
func Null() Abstract { return Abstract{may: mayNull} }

// NotNull is some value that is not NULL, and not a composite (whose IS NOT NULL is false while a field is NULL).
func NotNull() Abstract { return Abstract{may: anyValue} }

// Constant is a value known by its text, as its type prints it. For types whose values can't be compared by what is
// known here (citext, dates, floats, arrays …) it is NotNull. A caller that has a text column with a nondeterministic
// collation uses NotNull too.
func (c *Catalog) Constant(text string, t TypeRef) Abstract {
	base, _, _ := c.Base(t)
	if base.Array {
		return NotNull()
	}
	if d := c.Types[base.Name]; d != nil && d.Kind == Enum {
		return Abstract{may: mayOther, kind: labelConst, typ: base.Name, text: text}
	}
	if base.Name.Schema != "pg_catalog" {
		return NotNull()
	}
	switch base.Name.Name {
	case "text", "varchar":
		return textValue(text)
	case "bpchar":
		return Abstract{may: mayOther, kind: charConst, text: strings.TrimRight(text, " ")}
	case "int2", "int4", "int8", "numeric":
		if plainNumber(text) {
			return Abstract{may: mayOther, kind: numberConst, text: text}
		}
	case "bool":
		switch text {
		case "t", "true":
			return Abstract{may: mayTrue}
		case "f", "false":
			return Abstract{may: mayFalse}
		}
	}
	return NotNull()
}

func textValue(s string) Abstract { return Abstract{may: mayOther, kind: textConst, text: s} }

// CanFail says whether a CHECK can be false, or stop with an error, once the known columns have the values given while
// nothing is assumed of the others. A domain's check calls its value "value". CHECK passes on NULL, as in SQL. The
// answer is true unless it is certain that the check holds; in particular functions of users are taken to return
// anything. Names of functions and operators without a schema are taken for those of pg_catalog.
func (c *Catalog) CanFail(check *Check, known map[string]Abstract) bool {
	if check == nil || check.Expr == nil {
		return true
	}
	e := evaluator{cat: c, known: known}
	return e.truth(check.Expr)&mayFalse != 0 || e.mayError
}

// evaluator computes the set of an expression's possible results.
type evaluator struct {
	cat      *Catalog
	known    map[string]Abstract
	mayError bool // a known value goes where it may raise an error
	depth    int
}

// truth evaluates a condition.
func (e *evaluator) truth(n *pg_query.Node) outcome { return asTruth(e.eval(n)) }

func asTruth(a Abstract) outcome {
	if a.may&mayOther != 0 {
		return a.may&mayNull | anyTruth
	}
	return a.may
}

// unknown is the result of what is not understood. If it has to do with a known column, it may also raise an error that
// it did not raise for the value that was there before.
func (e *evaluator) unknown(n *pg_query.Node) Abstract {
	for _, c := range ColumnsOf(n) {
		if _, ok := e.known[c]; ok || c == "*" {
			e.mayError = true
		}
	}
	return Anything()
}

func (e *evaluator) eval(n *pg_query.Node) Abstract {
	if e.depth++; e.depth > 1000 {
		e.mayError = true
		return Anything()
	}
	defer func() { e.depth-- }()
	switch {
	case n.GetColumnRef() != nil:
		cols := ColumnsOf(n)
		if len(cols) == 1 && cols[0] != "*" {
			if a, ok := e.known[cols[0]]; ok {
				return a
			}
		}
		return Anything()
	case n.GetAConst() != nil:
		return constant(n.GetAConst())
	case n.GetTypeCast() != nil:
		return e.cast(n)
	case n.GetBoolExpr() != nil:
		return Abstract{may: e.boolean(n.GetBoolExpr())}
	case n.GetNullTest() != nil:
		return e.nullTest(n.GetNullTest())
	case n.GetBooleanTest() != nil:
		return e.booleanTest(n.GetBooleanTest())
	case n.GetAExpr() != nil:
		return e.operator(n)
	case n.GetFuncCall() != nil:
		return e.call(n)
	case n.GetCoalesceExpr() != nil:
		all := outcome(0)
		for _, a := range n.GetCoalesceExpr().Args {
			v := e.eval(a)
			if v.may&mayNull == 0 {
				if all == 0 {
					return v
				}
				return Abstract{may: all | v.may}
			}
			all |= v.may &^ mayNull
		}
		return Abstract{may: all | mayNull}
	case n.GetCaseExpr() != nil:
		return e.caseExpr(n.GetCaseExpr())
	case n.GetSqlvalueFunction() != nil:
		return NotNull()
	case n.GetCollateClause() != nil: // another collation may compare otherwise
		a := e.eval(n.GetCollateClause().Arg)
		return Abstract{may: a.may}
	}
	return e.unknown(n)
}

func constant(c *pg_query.A_Const) Abstract {
	switch {
	case c.Isnull:
		return Null()
	case c.GetIval() != nil:
		return Abstract{may: mayOther, kind: numberConst, text: strconv.Itoa(int(c.GetIval().Ival))}
	case c.GetFval() != nil:
		if plainNumber(c.GetFval().Fval) {
			return Abstract{may: mayOther, kind: numberConst, text: c.GetFval().Fval}
		}
	case c.GetBoolval() != nil:
		if c.GetBoolval().Boolval {
			return Abstract{may: mayTrue}
		}
		return Abstract{may: mayFalse}
	case c.GetSval() != nil:
		return textValue(c.GetSval().Sval)
	}
	return NotNull()
}

func (e *evaluator) boolean(b *pg_query.BoolExpr) outcome {
	if b.Boolop == pg_query.BoolExprType_NOT_EXPR {
		return not(e.truth(b.Args[0]))
	}
	// The server evaluates from the left and stops where the outcome is certain; so do we, for errors count.
	decided, neutral := mayFalse, mayTrue
	if b.Boolop == pg_query.BoolExprType_OR_EXPR {
		decided, neutral = mayTrue, mayFalse
	}
	sum := neutral
	for _, a := range b.Args {
		sum = combine(sum, e.truth(a), decided, neutral)
		if sum == decided {
			break
		}
	}
	return sum
}

// combine is AND where decided is false and neutral true, OR the other way round.
func combine(a, b, decided, neutral outcome) outcome {
	var r outcome
	if (a|b)&decided != 0 {
		r |= decided
	}
	if a&neutral != 0 && b&neutral != 0 {
		r |= neutral
	}
	if a&mayNull != 0 && b&(mayNull|neutral) != 0 || b&mayNull != 0 && a&(mayNull|neutral) != 0 {
		r |= mayNull
	}
	return r
}

func not(a outcome) outcome {
	r := a & mayNull
	if a&mayTrue != 0 {
		r |= mayFalse
	}
	if a&mayFalse != 0 {
		r |= mayTrue
	}
	return r
}

// when returns what a test can give, from whether it can hold and whether it can fail to hold.
func when(holds, fails bool) Abstract {
	var may outcome
	if holds {
		may |= mayTrue
	}
	if fails {
		may |= mayFalse
	}
	return Abstract{may: may}
}

func (e *evaluator) nullTest(t *pg_query.NullTest) Abstract {
	isNull := t.Nulltesttype == pg_query.NullTestType_IS_NULL
	fields := []*pg_query.Node{t.Arg}
	if row := t.Arg.GetRowExpr(); row != nil { // a row IS [NOT] NULL if all its fields are
		fields = row.Args
	}
	surely, possibly := true, true
	for _, f := range fields {
		v := e.eval(f).may
		wanted, other := v&mayNull != 0, v&anyValue != 0
		if !isNull {
			wanted, other = other, wanted
		}
		possibly = possibly && wanted
		surely = surely && !other
	}
	return when(possibly, !surely)
}

func (e *evaluator) booleanTest(t *pg_query.BooleanTest) Abstract {
	v := e.truth(t.Arg)
	var hit outcome
	negate := false
	switch t.Booltesttype {
	case pg_query.BoolTestType_IS_TRUE:
		hit = mayTrue
	case pg_query.BoolTestType_IS_NOT_TRUE:
		hit, negate = mayTrue, true
	case pg_query.BoolTestType_IS_FALSE:
		hit = mayFalse
	case pg_query.BoolTestType_IS_NOT_FALSE:
		hit, negate = mayFalse, true
	case pg_query.BoolTestType_IS_UNKNOWN:
		hit = mayNull
	case pg_query.BoolTestType_IS_NOT_UNKNOWN:
		hit, negate = mayNull, true
	default:
		return when(true, true)
	}
	if negate {
		return when(v&^hit != 0, v&hit != 0)
	}
	return when(v&hit != 0, v&^hit != 0)
}

func (e *evaluator) caseExpr(c *pg_query.CaseExpr) Abstract {
	var arg Abstract
	if c.Arg != nil {
		arg = e.eval(c.Arg)
	}
	var results []Abstract
	certain := false
	for _, w := range c.Args {
		var cond outcome
		if c.Arg != nil {
			cond = compare("=", arg, e.eval(w.GetCaseWhen().Expr))
		} else {
			cond = e.truth(w.GetCaseWhen().Expr)
		}
		if cond&mayTrue == 0 {
			continue
		}
		results = append(results, e.eval(w.GetCaseWhen().Result))
		if cond == mayTrue {
			certain = true
			break
		}
	}
	if !certain {
		if c.Defresult == nil {
			results = append(results, Null())
		} else {
			results = append(results, e.eval(c.Defresult))
		}
	}
	if len(results) == 1 {
		return results[0]
	}
	var may outcome
	for _, r := range results {
		may |= r.may
	}
	return Abstract{may: may}
}

// operator evaluates an operator of pg_catalog; all of them but || are strict.
func (e *evaluator) operator(n *pg_query.Node) Abstract {
	x := n.GetAExpr()
	names := stringsOf(x.Name)
	if len(names) == 0 || len(names) > 1 && names[0] != "pg_catalog" || x.Lexpr.GetRowExpr() != nil || x.Rexpr.GetRowExpr() != nil {
		return e.unknown(n)
	}
	op := names[len(names)-1]
	switch x.Kind {
	case pg_query.A_Expr_Kind_AEXPR_OP, pg_query.A_Expr_Kind_AEXPR_LIKE, pg_query.A_Expr_Kind_AEXPR_ILIKE:
		if x.Rexpr == nil || x.Lexpr == nil || op == "||" {
			return e.arithmetic(n, op)
		}
		if isComparison(op) {
			return Abstract{may: compare(op, e.eval(x.Lexpr), e.eval(x.Rexpr))}
		}
		return e.strict(n, x.Lexpr, x.Rexpr)
	case pg_query.A_Expr_Kind_AEXPR_DISTINCT:
		return Abstract{may: not(same(e.eval(x.Lexpr), e.eval(x.Rexpr)))}
	case pg_query.A_Expr_Kind_AEXPR_NOT_DISTINCT:
		return Abstract{may: same(e.eval(x.Lexpr), e.eval(x.Rexpr))}
	case pg_query.A_Expr_Kind_AEXPR_IN:
		return e.anyOf(op, op == "<>", x.Lexpr, x.Rexpr.GetList().GetItems())
	case pg_query.A_Expr_Kind_AEXPR_OP_ANY, pg_query.A_Expr_Kind_AEXPR_OP_ALL:
		if elems, ok := arrayElements(x.Rexpr); ok && isComparison(op) {
			return e.anyOf(op, x.Kind == pg_query.A_Expr_Kind_AEXPR_OP_ALL, x.Lexpr, elems)
		}
		return e.unknown(n)
	case pg_query.A_Expr_Kind_AEXPR_BETWEEN, pg_query.A_Expr_Kind_AEXPR_NOT_BETWEEN:
		if bounds := x.Rexpr.GetList().GetItems(); len(bounds) == 2 {
			v := e.eval(x.Lexpr)
			in := combine(compare(">=", v, e.eval(bounds[0])), compare("<=", v, e.eval(bounds[1])), mayFalse, mayTrue)
			if x.Kind == pg_query.A_Expr_Kind_AEXPR_NOT_BETWEEN {
				in = not(in)
			}
			return Abstract{may: in}
		}
	}
	return e.unknown(n)
}

// anyOf evaluates op ANY (or op ALL) over a list of expressions.
func (e *evaluator) anyOf(op string, all bool, left *pg_query.Node, list []*pg_query.Node) Abstract {
	decided, neutral := mayTrue, mayFalse
	if all {
		decided, neutral = mayFalse, mayTrue
	}
	v := e.eval(left)
	sum := neutral
	for _, n := range list {
		if n.GetRowExpr() != nil {
			return e.unknown(n)
		}
		sum = combine(sum, compare(op, v, e.eval(n)), decided, neutral)
	}
	return Abstract{may: sum}
}

// arrayElements returns the elements of ARRAY[…], also under casts.
func arrayElements(n *pg_query.Node) ([]*pg_query.Node, bool) {
	var casts []*pg_query.TypeName
	for n.GetTypeCast() != nil {
		casts = append(casts, n.GetTypeCast().TypeName)
		n = n.GetTypeCast().Arg
	}
	arr := n.GetAArrayExpr()
	if arr == nil {
		return nil, false
	}
	elems := slices.Clone(arr.Elements)
	for _, t := range slices.Backward(casts) { // the cast of an array is that of its elements
		if len(t.ArrayBounds) != 1 {
			return nil, false
		}
		elem := &pg_query.TypeName{Names: t.Names, Typmods: t.Typmods, Typemod: t.Typemod}
		for i := range elems {
			elems[i] = &pg_query.Node{Node: &pg_query.Node_TypeCast{TypeCast: &pg_query.TypeCast{Arg: elems[i], TypeName: elem}}}
		}
	}
	for _, el := range elems {
		inner := el
		for inner.GetTypeCast() != nil {
			inner = inner.GetTypeCast().Arg
		}
		if inner.GetAArrayExpr() != nil { // more dimensions
			return nil, false
		}
	}
	return elems, true
}

// arithmetic evaluates what is left of the operators.
func (e *evaluator) arithmetic(n *pg_query.Node, op string) Abstract {
	x := n.GetAExpr()
	switch {
	case op == "-" && x.Lexpr == nil:
		if v := e.eval(x.Rexpr); v.kind == numberConst {
			if s, ok := strings.CutPrefix(v.text, "-"); ok {
				v.text = s
			} else {
				v.text = "-" + v.text
			}
			return v
		}
		return e.strict(n, x.Rexpr)
	case op == "||" && x.Lexpr != nil && x.Rexpr != nil:
		return e.unknown(n) // strict for text, not for arrays
	case x.Lexpr == nil && x.Rexpr != nil:
		return e.strict(n, x.Rexpr)
	}
	return e.unknown(n)
}

// strict is the result of a strict function or operator that is not computed here.
func (e *evaluator) strict(n *pg_query.Node, args ...*pg_query.Node) Abstract {
	for _, a := range args {
		if e.eval(a).may == mayNull {
			return Null()
		}
	}
	return e.unknown(n)
}

func isComparison(op string) bool {
	switch op {
	case "=", "<>", "!=", "<", "<=", ">", ">=", "~", "!~", "~*", "!~*", "~~", "!~~", "~~*", "!~~*":
		return true
	}
	return false
}

// compare evaluates a comparison: strict, and never NULL for two values.
func compare(op string, a, b Abstract) outcome {
	nulls := (a.may | b.may) & mayNull
	if a.may&anyValue == 0 || b.may&anyValue == 0 {
		return mayNull
	}
	if holds, ok := decide(op, a, b); ok {
		if holds {
			return nulls | mayTrue
		}
		return nulls | mayFalse
	}
	return nulls | anyTruth
}

// same evaluates IS NOT DISTINCT FROM.
func same(a, b Abstract) outcome {
	var r outcome
	if a.may&mayNull != 0 && b.may&mayNull != 0 {
		r |= mayTrue
	}
	if a.may&mayNull != 0 && b.may&anyValue != 0 || b.may&mayNull != 0 && a.may&anyValue != 0 {
		r |= mayFalse
	}
	if a.may&anyValue != 0 && b.may&anyValue != 0 {
		r |= compare("=", a, b) &^ mayNull
	}
	return r
}

// decide compares two known values; ok is false where the outcome is not certain.
func decide(op string, a, b Abstract) (holds, ok bool) {
	if av, bv := a.may&anyValue, b.may&anyValue; a.kind == noConst && b.kind == noConst {
		single := func(o outcome) bool { return o == mayTrue || o == mayFalse }
		if !single(av) || !single(bv) {
			return false, false
		}
		switch op {
		case "=":
			return av == bv, true
		case "<>", "!=":
			return av != bv, true
		}
		return false, false
	}
	if a.kind == noConst || b.kind == noConst {
		return false, false
	}
	if a.kind == numberConst || b.kind == numberConst {
		return decideNumbers(op, a, b)
	}
	if a.kind == labelConst || b.kind == labelConst {
		// An enum against an enum, or against a literal that will become one.
		if a.kind == b.kind && a.typ != b.typ || a.kind == charConst || b.kind == charConst {
			return false, false
		}
		return decideEqual(op, a.text == b.text)
	}
	if a.kind == charConst || b.kind == charConst {
		if isPattern(op) { // patterns see the blanks that a char(n) is filled up with
			return false, false
		}
		return decideEqual(op, strings.TrimRight(a.text, " ") == strings.TrimRight(b.text, " "))
	}
	if isPattern(op) {
		return decidePattern(op, a.text, b.text)
	}
	return decideEqual(op, a.text == b.text)
}

func isPattern(op string) bool { return strings.Contains(op, "~") }

// decideEqual decides what follows from equality alone; the order of different texts depends on a collation.
func decideEqual(op string, equal bool) (holds, ok bool) {
	switch op {
	case "=":
		return equal, true
	case "<>", "!=":
		return !equal, true
	case "<=", ">=":
		return true, equal
	case "<", ">":
		return false, equal
	}
	return false, false
}

func decideNumbers(op string, a, b Abstract) (holds, ok bool) {
	for _, v := range []Abstract{a, b} {
		if v.kind != numberConst && (v.kind != textConst || !plainNumber(v.text)) {
			return false, false
		}
	}
	x, okx := new(big.Rat).SetString(a.text)
	y, oky := new(big.Rat).SetString(b.text)
	if !okx || !oky {
		return false, false
	}
	switch c := x.Cmp(y); op {
	case "=":
		return c == 0, true
	case "<>", "!=":
		return c != 0, true
	case "<":
		return c < 0, true
	case "<=":
		return c <= 0, true
	case ">":
		return c > 0, true
	case ">=":
		return c >= 0, true
	}
	return false, false
}

// plainNumber says whether s is a decimal number without an exponent, of a length worth computing with.
func plainNumber(s string) bool {
	s = strings.TrimPrefix(s, "-")
	digits, dots := 0, 0
	for i := 0; i < len(s); i++ {
		switch {
		case isDigit(s[i]):
			digits++
		case s[i] == '.':
			dots++
		default:
			return false
		}
	}
	return digits > 0 && digits <= 200 && dots <= 1
}

// decidePattern matches LIKE and regular expressions where the outcome depends on no locale.
func decidePattern(op, text, pattern string) (holds, ok bool) {
	negate := strings.HasPrefix(op, "!")
	switch strings.TrimPrefix(op, "!") {
	case "~~":
		holds, ok = like(text, pattern)
	case "~~*":
		if holds, ok = like(text, pattern); !holds { // a match stays one when case is ignored
			ok = false
		}
	case "~":
		holds, ok = matches(text, pattern)
	case "~*":
		// The same, unless the pattern says what must not be there.
		holds, ok = matches(text, pattern)
		if !holds || strings.Contains(pattern, "[^") {
			ok = false
		}
	}
	return holds != negate, ok
}

// like matches a LIKE pattern; ok is false for a pattern that the server refuses.
func like(text, pattern string) (holds, ok bool) {
	if !utf8.ValidString(text) || !utf8.ValidString(pattern) {
		return false, false
	}
	var re strings.Builder
	re.WriteString(`(?s)\A`)
	escaped := false
	for _, r := range pattern {
		switch {
		case escaped:
			re.WriteString(regexp.QuoteMeta(string(r)))
			escaped = false
		case r == '\\':
			escaped = true
		case r == '%':
			re.WriteString(`.*`)
		case r == '_':
			re.WriteString(`.`)
		default:
			re.WriteString(regexp.QuoteMeta(string(r)))
		}
	}
	re.WriteString(`\z`)
	if escaped {
		return false, false
	}
	x, err := regexp.Compile(re.String())
	if err != nil {
		return false, false
	}
	return x.MatchString(text), true
}

// commonRegexp are the patterns that PostgreSQL's advanced regular expressions and RE2 read alike: literals, dots,
// anchors, groups, alternatives, quantifiers, plain bracket expressions and a few escapes.
var commonRegexp = regexp.MustCompile(`\A(?:[A-Za-z0-9@_ %,;:!#&'"<>=~/` + "`" + `.^$|-]|\((?:\?:)?|\)|[*+?]|\{[0-9]{1,3}(?:,(?:[0-9]{1,3})?)?\}` +
	`|\\[dswDSW]|\\[^A-Za-z0-9]|\[\^?(?:[A-Za-z0-9@_ %,;:!#&'"<>=~/` + "`" + `.$|*+?(){}-]|\\[dsw]|\\[^A-Za-z0-9]|\[:(?:alpha|digit|alnum|lower|upper|space|xdigit|punct):\])+\])*\z`)

// matches matches a regular expression; ok is false where the two dialects might differ.
func matches(text, pattern string) (holds, ok bool) {
	if !isASCII(text) || !isASCII(pattern) || !commonRegexp.MatchString(pattern) || quantified(pattern) {
		return false, false
	}
	x, err := regexp.Compile(`(?s)` + pattern)
	if err != nil {
		return false, false
	}
	return x.MatchString(text), true
}

// quantified says whether a quantifier stands where dialects differ: at the start, after another, after an anchor or
// an opening parenthesis, where it may also begin options.
func quantified(pattern string) bool {
	plain := strings.ReplaceAll(pattern, "(?:", "(")
	return strings.Contains(plain, "(?") || strings.Contains(plain, "|?") || strings.Contains(plain, "^?") ||
		strings.HasPrefix(pattern, "***") || strings.Contains(pattern, "^*") || strings.Contains(pattern, "(*") ||
		strings.Contains(pattern, "|*") || strings.HasPrefix(pattern, "*") || strings.Contains(pattern, "++") ||
		strings.Contains(pattern, "*+") || strings.Contains(pattern, "?+") || strings.Contains(pattern, "}+")
}

func isASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// cast evaluates a cast. NULL stays NULL, whatever the type.
func (e *evaluator) cast(n *pg_query.Node) Abstract {
	c := n.GetTypeCast()
	v := e.eval(c.Arg)
	if v.may == mayNull {
		return v
	}
	names := stringsOf(c.TypeName.GetNames())
	if len(names) == 0 || len(c.TypeName.ArrayBounds) > 0 {
		return e.unknown(n)
	}
	name := names[len(names)-1]
	if len(names) > 1 && names[0] != "pg_catalog" {
		return e.castToUsers(n, v, Name{names[0], name})
	}
	mods := c.TypeName.Typmods
	limit := 0
	if len(mods) == 1 {
		limit = int(mods[0].GetAConst().GetIval().GetIval())
	}
	switch name {
	case "text", "varchar":
		switch {
		case v.kind == textConst || v.kind == charConst || v.kind == labelConst || v.kind == numberConst && limit == 0:
			return Abstract{may: v.may, kind: textConst, text: clipRunes(v.text, limit)}
		case v.kind == noConst && v.may&^mayNull == v.may&anyValue: // output functions raise no errors
			return Abstract{may: v.may&mayNull | mayOther}
		}
		return Abstract{may: v.may&mayNull | mayOther}
	case "bpchar":
		if v.kind == textConst || v.kind == charConst {
			return Abstract{may: v.may, kind: charConst, text: strings.TrimRight(clipRunes(v.text, limit), " ")}
		}
		return Abstract{may: v.may&mayNull | mayOther}
	case "int2", "int4", "int8", "numeric":
		if (v.kind == numberConst || v.kind == textConst) && fitsNumber(v.text, name, len(mods) > 0) {
			return Abstract{may: v.may, kind: numberConst, text: v.text}
		}
	case "bool":
		switch {
		case v.kind == textConst && v.text == "true" || v.kind == textConst && v.text == "t":
			return Abstract{may: v.may&mayNull | mayTrue}
		case v.kind == textConst && v.text == "false" || v.kind == textConst && v.text == "f":
			return Abstract{may: v.may&mayNull | mayFalse}
		case v.kind == noConst && v.may&mayOther == 0:
			return v
		}
	}
	u := e.unknown(n)
	u.may &^= mayNull &^ v.may // a cast of a value is a value
	return u
}

// castToUsers evaluates a cast to a type that is not the server's own.
func (e *evaluator) castToUsers(n *pg_query.Node, v Abstract, name Name) Abstract {
	t := e.cat.Types[name]
	if t != nil && t.Kind == Enum && (v.kind == textConst || v.kind == labelConst) && slices.Contains(t.Labels, v.text) {
		return Abstract{may: v.may, kind: labelConst, typ: name, text: v.text}
	}
	return e.unknown(n)
}

// fitsNumber says whether text is a number that the type holds exactly as it is.
func fitsNumber(text, typ string, modified bool) bool {
	if !plainNumber(text) {
		return false
	}
	bits := 0
	switch typ {
	case "int2":
		bits = 16
	case "int4":
		bits = 32
	case "int8":
		bits = 64
	default:
		return !modified // numeric(10,2) rounds
	}
	_, err := strconv.ParseInt(text, 10, bits)
	return err == nil
}

// clipRunes cuts s to n characters; 0 is no limit.
func clipRunes(s string, n int) string {
	if n <= 0 {
		return s
	}
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
}

// call evaluates a function of pg_catalog.
func (e *evaluator) call(n *pg_query.Node) Abstract {
	f := n.GetFuncCall()
	names := stringsOf(f.Funcname)
	if len(names) == 0 || len(names) > 1 && names[0] != "pg_catalog" || f.FuncVariadic || f.Over != nil {
		return e.unknown(n)
	}
	name := names[len(names)-1]
	switch name {
	case "num_nulls", "num_nonnulls":
		return e.countNulls(n, name == "num_nulls")
	case "length", "char_length", "character_length", "octet_length", "lower", "upper", "btrim", "ltrim", "rtrim":
		if v, ok := e.textFunction(name, f.Args); ok {
			return v
		}
		return e.strict(n, f.Args...)
	case "abs", "age", "array_length", "array_lower", "array_ndims", "array_upper", "ascii", "bit_length", "cardinality", "ceil", "ceiling",
		"convert_from", "date_part", "date_trunc", "decode", "div", "encode", "extract", "family", "floor", "host", "initcap",
		"is_normalized", "isempty", "isfinite", "json_array_length", "json_typeof", "jsonb_array_length", "jsonb_typeof",
		"left", "like_escape", "lower_inc", "lower_inf", "masklen", "md5", "mod", "normalize", "position", "power", "regexp_like",
		"regexp_match", "regexp_replace", "replace", "reverse", "right", "round", "scale", "sha256", "sign", "split_part",
		"sqrt", "starts_with", "strpos", "substr", "substring", "timezone", "to_char", "to_date", "to_number", "to_timestamp",
		"translate", "trunc", "upper_inc", "upper_inf":
		return e.strict(n, f.Args...)
	}
	return e.unknown(n)
}

// countNulls evaluates num_nulls and num_nonnulls where each argument's nullness is certain.
func (e *evaluator) countNulls(n *pg_query.Node, nulls bool) Abstract {
	count := 0
	for _, a := range n.GetFuncCall().Args {
		v := e.eval(a).may
		if v&mayNull != 0 && v&anyValue != 0 {
			return Abstract{may: mayOther} // some number
		}
		if (v == mayNull) == nulls {
			count++
		}
	}
	return Abstract{may: mayOther, kind: numberConst, text: strconv.Itoa(count)}
}

// textFunction computes a function of one text, where its result depends on no locale.
func (e *evaluator) textFunction(name string, args []*pg_query.Node) (Abstract, bool) {
	if len(args) != 1 {
		return Abstract{}, false
	}
	v := e.eval(args[0])
	if v.kind == noConst { // of any value: some value, and no error
		if v.may == mayNull {
			return v, true
		}
		return Abstract{may: v.may&mayNull | mayOther}, true
	}
	if v.kind != textConst && !(v.kind == charConst && name != "octet_length") || !utf8.ValidString(v.text) {
		return Abstract{}, false
	}
	number := func(i int) (Abstract, bool) {
		return Abstract{may: v.may, kind: numberConst, text: strconv.Itoa(i)}, true
	}
	text := func(s string) (Abstract, bool) { return Abstract{may: v.may, kind: textConst, text: s}, true }
	switch name {
	case "length", "char_length", "character_length":
		return number(utf8.RuneCountInString(v.text))
	case "octet_length":
		if isASCII(v.text) { // otherwise the server's encoding counts
			return number(len(v.text))
		}
	case "lower": // in Turkish, I and i are not a pair
		if isASCII(v.text) && !strings.Contains(v.text, "I") {
			return text(strings.ToLower(v.text))
		}
	case "upper":
		if isASCII(v.text) && !strings.Contains(v.text, "i") {
			return text(strings.ToUpper(v.text))
		}
	case "btrim":
		return text(strings.Trim(v.text, " "))
	case "ltrim":
		return text(strings.TrimLeft(v.text, " "))
	case "rtrim":
		return text(strings.TrimRight(v.text, " "))
	}
	return Abstract{may: v.may&mayNull | mayOther}, true
}
