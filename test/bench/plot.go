package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"
)

// Measures of the plot, in pixels.
const (
	barHeight = 26
	nameWidth = 330
	plotWidth = 420
	sideWidth = 190
	topSpace  = 58
)

// within says whether a value keeps a target of the form "<= 0.5", ">= 2" or
// "<= 100 MiB".
func within(value float64, target string) (ok, known bool) {
	f := strings.Fields(target)
	if len(f) < 2 {
		return false, false
	}
	limit, err := strconv.ParseFloat(strings.TrimSuffix(f[1], "×"), 64)
	if err != nil {
		return false, false
	}
	switch f[0] {
	case "<=":
		return value <= limit, true
	case ">=":
		return value >= limit, true
	}
	return false, false
}

// judged is what a target is held against: the ratio where there is a peer,
// else the figure itself.
func (r row) judged() float64 {
	if r.Ratio != 0 {
		return r.Ratio
	}
	return r.Ours
}

func (r row) limit() (float64, bool) {
	f := strings.Fields(r.Target)
	if len(f) < 2 {
		return 0, false
	}
	limit, err := strconv.ParseFloat(f[1], 64)
	return limit, err == nil && limit > 0
}

// plot draws each row as a bar: how far it is from its target, on a logarithmic
// scale on which the target is the middle line and better is to the left.
func plot(rows []row) []byte {
	var shown []row
	for _, r := range rows {
		if _, ok := r.limit(); ok && r.judged() > 0 {
			shown = append(shown, r)
		}
	}
	height := topSpace + barHeight*len(shown) + 16
	width := nameWidth + plotWidth + sideWidth
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height, width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	fmt.Fprintf(&b, `<text x="10" y="22" font-size="15">Cape beside its peers: distance from the target</text>`+"\n")
	middle := float64(nameWidth) + plotWidth/2
	for decade := -2; decade <= 2; decade++ {
		x := position(math.Pow(10, float64(decade)))
		fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="#ddd"/><text x="%.1f" y="%d" text-anchor="middle" fill="#666">%s</text>`+"\n",
			x, x, topSpace-8, height-12, x, topSpace-14, []string{"100× better", "10×", "target", "10×", "100× worse"}[decade+2])
	}
	for i, r := range shown {
		drawBar(&b, r, topSpace+i*barHeight, middle)
	}
	fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="#333"/>`+"\n</svg>\n", middle, middle, topSpace-8, height-12)
	return b.Bytes()
}

// position is where a quotient of a hundredth to a hundred lies.
func position(quotient float64) float64 {
	log := math.Log10(min(max(quotient, 0.01), 100))
	return float64(nameWidth) + plotWidth/2 + log*plotWidth/4
}

func drawBar(b *bytes.Buffer, r row, y int, middle float64) {
	limit, _ := r.limit()
	quotient := r.judged() / limit // below one is better
	if strings.HasPrefix(r.Target, ">=") {
		quotient = 1 / quotient
	}
	colour := "#c0504d"
	if ok, _ := within(r.judged(), r.Target); ok {
		colour = "#4f8f4f"
	}
	x := position(quotient)
	from, to := min(x, middle), max(x, middle)
	figure := fmt.Sprintf("%.3g %s", r.Ours, r.Unit)
	if r.Ratio != 0 {
		figure = fmt.Sprintf("ratio %.3g", r.Ratio)
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", nameWidth-10, y+16, html.EscapeString(strings.TrimSpace(r.Name)))
	fmt.Fprintf(b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", from, y+4, max(to-from, 1), barHeight-9, colour)
	fmt.Fprintf(b, `<text x="%d" y="%d">%s (%s)</text>`+"\n", nameWidth+plotWidth+10, y+16, html.EscapeString(figure), html.EscapeString(r.Target))
}
