"""A client of the API server: where it is, how it is asked, and what its errors mean."""
