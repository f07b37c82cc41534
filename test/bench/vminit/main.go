// Command vminit is the init of the machine that a virtual machine's start is
// compared with: it prints one line.
package main

import (
	"fmt"
	"time"
)

func main() {
	fmt.Println("init runs")
	time.Sleep(time.Hour)
}
