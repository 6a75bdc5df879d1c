"""Run teachers over datasets once: catalogue, sources, views, teachers, job, plan."""
