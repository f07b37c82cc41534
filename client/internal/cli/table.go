package cli

import (
	"strings"
	"unicode/utf8"
)

// table draws rows of equal length in a box; the first is the head.
func table(rows [][]string) string {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	line := func(left, middle, right string) {
		for i, w := range widths {
			b.WriteString(map[bool]string{true: left, false: middle}[i == 0])
			b.WriteString(strings.Repeat("─", w+2))
		}
		b.WriteString(right + "\n")
	}
	line("┌", "┬", "┐")
	for n, row := range rows {
		for i, cell := range row {
			b.WriteString("│ " + cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+1))
		}
		b.WriteString("│\n")
		if n == 0 {
			line("├", "┼", "┤")
		}
	}
	line("└", "┴", "┘")
	return b.String()
}
