"""The local page that shows a cache: a read-only server. Imports `store` alone; torch only once a run is shown."""
