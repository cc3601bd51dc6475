"""llmsim: simulate LLM serving on accelerator clusters."""
