package main

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// The figure of growth: panels, each with lines over one axis.

const (
	panelWidth, panelHeight = 470, 330
	plotLeft, plotTop       = 62, 62
	plotWidth, plotHeight   = 380, 200
)

type panel struct {
	title, x, y string
	ticks       []tick  // of the x axis
	limit       float64 // a dashed line, or 0
	lines       []line
}

type tick struct {
	at    float64 // from 0 to 1
	label string
}

type line struct {
	name, color string
	points      [][2]float64 // x from 0 to 1, y as it is
}

// Colours that people who see colours differently tell apart.
const (
	blue, orange, green, grey = "#0072b2", "#d55e00", "#009e73", "#666666"
)

// svg draws the growth.
func (r *report) svg() string {
	largest := 0.0
	var counts []int // of people erased
	for _, p := range r.Growth {
		largest = max(largest, p.Size)
		if p.What == "backup" && !slices.Contains(counts, p.Erased) {
			counts = append(counts, p.Erased)
		}
	}
	slices.Sort(counts)
	bySize := func(name, color, what string, workers int, of func(growth) float64) line {
		l := line{name: name, color: color}
		for _, p := range r.Growth {
			if p.What == what && p.Workers == workers && (workers == 0 || p.Erased == erasedUsually) {
				l.points = append(l.points, [2]float64{p.Size / largest, of(p)})
			}
		}
		return l
	}
	byErased := func(name, color string, workers int, of func(growth) float64) line {
		l := line{name: name, color: color}
		for _, p := range r.Growth {
			if p.What == "backup" && p.Workers == workers && p.Size == r.Size {
				l.points = append(l.points, [2]float64{float64(slices.Index(counts, p.Erased)) / float64(max(len(counts)-1, 1)), of(p)})
			}
		}
		return l
	}
	typical := func(p growth) float64 { return median(values(p.Runs, wall)) }
	var sizes, erased []tick
	for _, v := range nice(largest, 4) {
		if v <= largest*1.001 {
			sizes = append(sizes, tick{v / largest, fmt.Sprintf("%g", v)})
		}
	}
	for i, n := range counts {
		erased = append(erased, tick{float64(i) / float64(max(len(counts)-1, 1)), thousands(n)})
	}
	panels := []panel{
		{title: "First backup", x: "GB of COPY text", y: "seconds", ticks: sizes, lines: []line{
			bySize("1 worker", orange, "backup", 1, typical), bySize("2 workers", blue, "backup", 2, typical), bySize(otherBackup, grey, otherBackup, 0, typical)}},
		{title: "Restore", x: "GB of COPY text", y: "seconds", ticks: sizes, lines: []line{
			bySize("1 worker", orange, "restore", 1, typical), bySize("2 workers", blue, "restore", 2, typical), bySize(otherRestore, grey, otherRestore, 0, typical)}},
		{title: fmt.Sprintf("First backup of %g GB, by people erased", r.Size), x: "people erased", y: "seconds", ticks: erased, lines: []line{
			byErased("1 worker", orange, 1, typical), byErased("2 workers", blue, 2, typical)}},
		{title: fmt.Sprintf("Peak memory of a backup of %g GB, by people erased", r.Size), x: "people erased", y: "MiB", ticks: erased, limit: 256, lines: []line{
			byErased("1 worker", orange, 1, growth.peak), byErased("2 workers", blue, 2, growth.peak)}},
		{title: "Peak memory, 2 workers", x: "GB of COPY text", y: "MiB", ticks: sizes, limit: 256, lines: []line{
			bySize("backup", blue, "backup", 2, growth.peak), bySize("restore", green, "restore", 2, growth.peak)}},
	}
	return r.figures(panels)
}

// figures draws panels, two beside each other.
func (r *report) figures(panels []panel) string {
	var b strings.Builder
	const head = 34
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%[2]d" font-family="sans-serif" font-size="12" fill="#222">`+"\n",
		2*panelWidth, head+(len(panels)+1)/2*panelHeight)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="#fcfcfa"/>`+"\n")
	fmt.Fprintf(&b, `<text x="20" y="24" font-size="13">%s</text>`+"\n", html.EscapeString(fmt.Sprintf("%s; PostgreSQL %s; %d cores; %s",
		strings.SplitN(r.Machine.Lethe, " (", 2)[0], strings.SplitN(r.Machine.PostgreSQL, " ", 2)[0], r.Machine.Cores, r.Started.Format("2 January 2006"))))
	for i, p := range panels {
		fmt.Fprintf(&b, `<g transform="translate(%d %d)">`+"\n", i%2*panelWidth, head+i/2*panelHeight)
		p.draw(&b)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func (p panel) draw(b *strings.Builder) {
	top := p.limit
	for _, l := range p.lines {
		for _, pt := range l.points {
			top = max(top, pt[1])
		}
	}
	ticks := nice(top, 4)
	top = ticks[len(ticks)-1]
	x := func(v float64) float64 { return plotLeft + v*plotWidth }
	y := func(v float64) float64 { return plotTop + plotHeight*(1-v/top) }
	text := func(px, py float64, anchor, more, s string) {
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="%s"%s>%s</text>`+"\n", px, py, anchor, more, html.EscapeString(s))
	}
	text(plotLeft, 20, "start", ` font-size="14" font-weight="bold"`, p.title)
	for _, v := range ticks {
		fmt.Fprintf(b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1[3]f" stroke="#ddd"/>`+"\n", plotLeft, plotLeft+plotWidth, y(v))
		text(plotLeft-7, y(v)+4, "end", "", fmt.Sprintf("%g", v))
	}
	for _, t := range p.ticks {
		fmt.Fprintf(b, `<line x1="%.1f" x2="%.1[1]f" y1="%d" y2="%d" stroke="#888"/>`+"\n", x(t.at), plotTop+plotHeight, plotTop+plotHeight+4)
		text(x(t.at), plotTop+plotHeight+18, "middle", "", t.label)
	}
	fmt.Fprintf(b, `<path d="M%d %dV%dH%d" fill="none" stroke="#888"/>`+"\n", plotLeft, plotTop, plotTop+plotHeight, plotLeft+plotWidth)
	text(plotLeft+plotWidth/2, plotTop+plotHeight+36, "middle", "", p.x)
	fmt.Fprintf(b, `<text transform="translate(16 %d) rotate(-90)" text-anchor="middle">%s</text>`+"\n", plotTop+plotHeight/2, p.y)
	if p.limit > 0 {
		fmt.Fprintf(b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1[3]f" stroke="#b00" stroke-dasharray="5 4"/>`+"\n", plotLeft, plotLeft+plotWidth, y(p.limit))
		text(plotLeft+plotWidth-4, y(p.limit)-5, "end", ` fill="#b00"`, fmt.Sprintf("promised: %g MiB and 4 × the longest row", p.limit))
	}
	key := float64(plotLeft)
	for _, l := range p.lines {
		fmt.Fprintf(b, `<line x1="%.1f" x2="%.1f" y1="38" y2="38" stroke="%s" stroke-width="2.5"/>`+"\n", key, key+18, l.color)
		text(key+23, 42, "start", "", l.name)
		key += 23 + 7*float64(len(l.name)) + 14
		var path strings.Builder
		for i, pt := range l.points {
			fmt.Fprintf(&path, "%c%.1f %.1f", "ML"[min(i, 1)], x(pt[0]), y(pt[1]))
			fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3.5" fill="%s"/>`+"\n", x(pt[0]), y(pt[1]), l.color)
		}
		if path.Len() > 0 {
			fmt.Fprintf(b, `<path d="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", path.String(), l.color)
		}
	}
}

// nice returns round numbers from 0 to at least most, about n steps.
func nice(most float64, n int) (ticks []float64) {
	if most <= 0 {
		most = 1
	}
	rough := most / float64(n)
	decade := math.Floor(math.Log10(rough))
	factor := 10.0
	for _, f := range []float64{1, 2, 5} {
		if f*math.Pow(10, decade) >= rough*0.999 {
			factor = f
			break
		}
	}
	for k := 0.0; ; k++ {
		v := k * factor * math.Pow(10, decade)
		if decade < 0 { // dividing by a whole number gives the float that prints as expected
			v = k * factor / math.Pow(10, -decade)
		}
		ticks = append(ticks, v)
		if v >= most*0.999 {
			return ticks
		}
	}
}

// thousands groups the digits of a number.
func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}
