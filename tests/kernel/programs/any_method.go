// A server that answers every method alike, CONNECT too, as Go's net/http does with one handler for all.
//
// any_method PORT FILE: serves the file; stores nothing of a body.
package main

import (
	"io"
	"log"
	"net/http"
	"os"
)

func main() {
	page, err := os.ReadFile(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	answer := func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if r.Method == "GET" {
			w.Write(page)
		}
	}
	log.Fatal(http.ListenAndServe(":"+os.Args[1], http.HandlerFunc(answer)))
}
